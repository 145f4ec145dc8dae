#include <algorithm>
#include <tuple>
#include <vector>

#include "common/lanes.h"
#include "common/parallel.h"
#include "ms_deform_attn/samples_cpu.h"

namespace detcore::ms_deform_attn {
namespace {

constexpr int kItemsPerTask = 64;
constexpr int kUnroll = 4;

// The samples of an item that read something.
template <class T, class A>
void find_samples(const Shape& s, const T* value, const A* locations, const A* weights, int64_t item, ItemTaps<A>& taps,
                  std::vector<Sample<const T, A>>& samples) {
    samples.clear();
    const int64_t image = item / s.heads / s.queries;
    const int head = static_cast<int>(item % s.heads);
    taps.find(locations + item * s.samples() * 2, weights + item * s.samples());
    int64_t i = 0;
    for (int level = 0; level < s.levels; ++level) {
        const T* plane = value + s.plane(image, head, level);
        for (int point = 0; point < s.points; ++point, ++i) {
            if (!taps.reads(i)) continue;
            samples.push_back(taps.sample(i, plane, s.pixel_stride()));
            samples.back().prefetch(s.channels);
        }
    }
}

template <int kVectors, class T, class A>
void attend_channels(const std::vector<Sample<const T, A>>& samples, int channel, T* out) {
    Lanes<A> sums[kVectors];
    for (auto& sum : sums) sum = Lanes<A>::zero();
    for (const Sample<const T, A>& sample : samples)
        for (int i = 0; i < 4; ++i)
            for (int v = 0; v < kVectors; ++v)
                sums[v].add(sample.weights[i], Lanes<A>::load(sample.corners[i] + channel + v * Lanes<A>::count));
    for (int v = 0; v < kVectors; ++v) sums[v].store(out + channel + v * Lanes<A>::count);
}

template <class T, class A>
void attend_item(const std::vector<Sample<const T, A>>& samples, int channels, T* out) {
    constexpr int lanes = Lanes<A>::count;
    int c = 0;
    for (; c + kUnroll * lanes <= channels; c += kUnroll * lanes) attend_channels<kUnroll>(samples, c, out);
    for (; c + lanes <= channels; c += lanes) attend_channels<1>(samples, c, out);
    for (; c < channels; ++c) {
        A sum = 0;
        for (const Sample<const T, A>& sample : samples)
            for (int i = 0; i < 4; ++i) sum = multiply_add<A>(sample.weights[i], widen(sample.corners[i][c]), sum);
        out[c] = narrow<T>(sum);
    }
}

template <class T, class A>
void attend(const Shape& s, const T* value, const A* locations, const A* weights, T* out) {
    torch::stable::parallel_for(0, s.items(), kItemsPerTask, [&](int64_t begin, int64_t end) {
        ItemTaps<A> taps(s);
        std::vector<Sample<const T, A>> samples, next;
        find_samples(s, value, locations, weights, begin, taps, samples);
        for (int64_t item = begin; item < end; ++item) {
            if (item + 1 < end) find_samples(s, value, locations, weights, item + 1, taps, next);
            attend_item(samples, s.channels, out + item * s.channels);
            samples.swap(next);
        }
    });
}

// What one sample reads and what its gradient is added to.
template <class T, class A>
struct Pair {
    BilinearTap<A> tap;
    Sample<const T, A> values;
    Sample<A, A> sums;
};

// Adds kVectors vectors of the gradient to the sums at the corners, and their products with the corners' values to
// `products`.
template <int kVectors, class T, class A>
inline void spread_channels(const Pair<T, A>& pair, const T* grad, int channel, Lanes<A> (&products)[4]) {
    constexpr int lanes = Lanes<A>::count;
    Lanes<A> own[kVectors];
    for (int v = 0; v < kVectors; ++v) own[v] = Lanes<A>::load(grad + channel + v * lanes);
    for (int i = 0; i < 4; ++i) {
        const T* corner = pair.values.corners[i] + channel;
        for (int v = 0; v < kVectors; ++v) products[i].v += own[v].v * Lanes<A>::load(corner + v * lanes).v;
        const A weight = pair.sums.weights[i];
        if (weight == 0) continue;  // also where the corner is outside of the map
        A* to = pair.sums.corners[i] + channel;
        for (int v = 0; v < kVectors; ++v) {
            Lanes<A> sum = Lanes<A>::load(to + v * lanes);
            sum.add(weight, own[v]);
            sum.store(to + v * lanes);
        }
    }
}

// Adds to the sums at the corners, and returns the products of the gradient with the corners' values.
template <class T, class A>
void spread(const Pair<T, A>& pair, const T* grad, int channels, A (&dots)[4]) {
    constexpr int lanes = Lanes<A>::count;
    Lanes<A> products[4];
    for (auto& product : products) product = Lanes<A>::zero();
    int c = 0;
    for (; c + kUnroll * lanes <= channels; c += kUnroll * lanes) spread_channels<kUnroll>(pair, grad, c, products);
    for (; c + lanes <= channels; c += lanes) spread_channels<1>(pair, grad, c, products);
    for (int i = 0; i < 4; ++i) dots[i] += products[i].sum();
    for (; c < channels; ++c)
        for (int i = 0; i < 4; ++i) {
            const A own = widen(grad[c]), weight = pair.sums.weights[i];
            dots[i] = multiply_add<A>(own, widen(pair.values.corners[i][c]), dots[i]);
            if (weight != 0) pair.sums.corners[i][c] = multiply_add<A>(weight, own, pair.sums.corners[i][c]);
        }
}

// A head of a level of an image, whose sums lie together.
template <class T, class A>
class Plane {
  public:
    Plane(const Shape& s, int64_t task, const T* value, std::vector<A>& sums)
        : s_(s),
          level_(static_cast<int>(task % s.levels)),
          head_(static_cast<int>(task / s.levels % s.heads)),
          image_(task / s.levels / s.heads),
          value_(value + s.plane(image_, head_, level_)),
          sums_(sums) {
        sums_.assign(int64_t{s.height[level_]} * s.width[level_] * s.channels, A(0));
    }

    int64_t item(int64_t query) const { return (image_ * s_.queries + query) * s_.heads + head_; }
    int64_t first_sample(int64_t query) const { return item(query) * s_.samples() + level_ * s_.points; }

    void find(int64_t query, const A* locations, const A* weights, std::vector<Pair<T, A>>& pairs) const {
        pairs.clear();
        const int64_t first = first_sample(query);
        for (int64_t at = first; at < first + s_.points; ++at) {
            const BilinearTap<A> tap = s_.tap(locations + 2 * at, level_);
            const int width = s_.width[level_];
            pairs.push_back({tap, Sample<const T, A>(value_, s_.pixel_stride(), width, tap, weights[at]),
                             Sample<A, A>(sums_.data(), s_.channels, width, tap, weights[at])});
            if (tap.pixel < 0) continue;
            pairs.back().values.prefetch(s_.channels);
            pairs.back().sums.prefetch(s_.channels);
        }
    }

    void differentiate(int64_t query, const std::vector<Pair<T, A>>& pairs, const T* grad, const A* weights,
                       A* grad_locations, A* grad_weights) const {
        int64_t at = first_sample(query);
        for (const Pair<T, A>& pair : pairs) {
            A dots[4] = {}, value_here, by_y, by_x;
            if (pair.tap.pixel >= 0) spread(pair, grad + item(query) * s_.channels, s_.channels, dots);
            pair.tap.derive(dots, value_here, by_y, by_x);
            grad_locations[2 * at] = by_x * A(s_.width[level_]) * weights[at];
            grad_locations[2 * at + 1] = by_y * A(s_.height[level_]) * weights[at];
            grad_weights[at++] = value_here;
        }
    }

    void write(T* grad_value) const {
        constexpr int lanes = Lanes<A>::count;
        const A* from = sums_.data();
        const A* end = from + sums_.size();
        for (T* to = grad_value + s_.plane(image_, head_, level_); from < end; to += s_.pixel_stride()) {
            int c = 0;
            for (; c + lanes <= s_.channels; c += lanes) Lanes<A>::load(from + c).store(to + c);
            for (; c < s_.channels; ++c) to[c] = narrow<T>(from[c]);
            from += s_.channels;
        }
    }

  private:
    const Shape& s_;
    int level_, head_;
    int64_t image_;
    const T* value_;
    std::vector<A>& sums_;
};

// A task owns a plane, in the value's gradient and in the others, so that the results do not depend on the number of
// threads.
template <class T, class A>
void differentiate(const Shape& s, const T* grad, const T* value, const A* locations, const A* weights, T* grad_value,
                   A* grad_locations, A* grad_weights) {
    parallel_tasks(s.batch * s.heads * s.levels, [&](int64_t task) {
        thread_local std::vector<A> sums;
        const Plane<T, A> plane(s, task, value, sums);
        std::vector<Pair<T, A>> pairs, next;
        if (s.queries > 0) plane.find(0, locations, weights, pairs);
        for (int64_t query = 0; query < s.queries; ++query) {
            if (query + 1 < s.queries) plane.find(query + 1, locations, weights, next);
            plane.differentiate(query, pairs, grad, weights, grad_locations, grad_weights);
            pairs.swap(next);
        }
        plane.write(grad_value);
    });
}

}  // namespace

Tensor forward(const Tensor& value, const Tensor& locations, const Tensor& weights, const std::vector<int64_t>& heights,
               const std::vector<int64_t>& widths) {
    const Shape s = shape_of(value, weights, heights, widths);
    const Tensor out = new_tensor({s.batch, s.queries, s.heads * int64_t{s.channels}}, value.scalar_type());
    dispatch_float(value.scalar_type(), [&]<class T>(T) {
        using A = Accumulator<T>;
        const Tensor values = as<T>(value), places = as<A>(locations), factors = as<A>(weights);
        if (out.numel()) attend(s, data<T>(values), data<A>(places), data<A>(factors), mutable_data<T>(out));
    });
    return out;
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad, const Tensor& value, const Tensor& locations,
                                            const Tensor& weights, const std::vector<int64_t>& heights,
                                            const std::vector<int64_t>& widths, const std::optional<Tensor>&) {
    const Shape s = shape_of(value, weights, heights, widths);
    Tensor grad_value, grad_locations, grad_weights;
    dispatch_float(value.scalar_type(), [&]<class T>(T) {
        using A = Accumulator<T>;
        const Tensor grads = as<T>(grad), values = as<T>(value), places = as<A>(locations), factors = as<A>(weights);
        grad_value = new_tensor({s.batch, s.positions, s.heads, s.channels}, value.scalar_type());
        grad_locations = torch::stable::empty_like(places);
        grad_weights = torch::stable::empty_like(factors);
        differentiate(s, data<T>(grads), data<T>(values), data<A>(places), data<A>(factors),
                      mutable_data<T>(grad_value), mutable_data<A>(grad_locations), mutable_data<A>(grad_weights));
    });
    return {grad_value, torch::stable::to(grad_locations, locations.scalar_type()),
            torch::stable::to(grad_weights, weights.scalar_type())};
}

}  // namespace detcore::ms_deform_attn

STABLE_TORCH_LIBRARY_IMPL(detcore, CPU, m) {
    m.impl("ms_deform_attn", TORCH_BOX(&detcore::ms_deform_attn::forward));
    m.impl("ms_deform_attn_backward", TORCH_BOX(&detcore::ms_deform_attn::backward));
}
