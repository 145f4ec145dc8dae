#include <algorithm>
#include <tuple>

#include "common/lanes.h"
#include "common/parallel.h"
#include "ms_deform_attn/op.h"

namespace detcore::ms_deform_attn {
namespace {

constexpr int kItemsPerTask = 64;
constexpr int kUnroll = 4;

// What one sample of an item reads.
template <class A>
struct Sample {
    int64_t corners[4];  // places in the level's plane
    A weights[4];

    Sample(const Shape& s, int level, const BilinearTap<A>& tap, A factor) {
        const int64_t stride = s.pixel_stride();
        tap.weights(factor, weights);
        corners[0] = tap.pixel * stride;
        corners[1] = corners[0] + tap.right() * stride;
        corners[2] = corners[0] + tap.below(s.width[level]) * stride;
        corners[3] = corners[2] + tap.right() * stride;
    }
};

// Calls f(level, sample) for each sample of an item that reads something.
template <class A, class F>
void for_each_sample(const Shape& s, const A* locations, const A* weights, int64_t item, const F& f) {
    const A* location = locations + item * s.samples() * 2;
    const A* weight = weights + item * s.samples();
    for (int level = 0; level < s.levels; ++level) {
        for (int point = 0; point < s.points; ++point, location += 2, ++weight) {
            const BilinearTap<A> tap = s.tap(location, level);
            if (tap.pixel >= 0) f(level, Sample<A>(s, level, tap, *weight));
        }
    }
}

template <int kVectors, class T, class A>
void attend_channels(const Shape& s, const T* value, const A* locations, const A* weights, int64_t item, int channel,
                     T* out) {
    const int64_t image = item / s.heads / s.queries;
    const int head = static_cast<int>(item % s.heads);
    Lanes<A> sums[kVectors];
    for (auto& sum : sums) sum = Lanes<A>::zero();
    for_each_sample(s, locations, weights, item, [&](int level, const Sample<A>& sample) {
        const T* plane = value + s.plane(image, head, level) + channel;
        for (int i = 0; i < 4; ++i)
            for (int v = 0; v < kVectors; ++v)
                sums[v].add(sample.weights[i], Lanes<A>::load(plane + sample.corners[i] + v * Lanes<A>::count));
    });
    for (int v = 0; v < kVectors; ++v) sums[v].store(out + v * Lanes<A>::count);
}

template <class T, class A>
void attend(const Shape& s, const T* value, const A* locations, const A* weights, T* out) {
    constexpr int lanes = Lanes<A>::count;
    torch::stable::parallel_for(0, s.items(), kItemsPerTask, [&](int64_t begin, int64_t end) {
        for (int64_t item = begin; item < end; ++item) {
            T* to = out + item * s.channels;
            int c = 0;
            for (; c + kUnroll * lanes <= s.channels; c += kUnroll * lanes)
                attend_channels<kUnroll>(s, value, locations, weights, item, c, to + c);
            for (; c + lanes <= s.channels; c += lanes)
                attend_channels<1>(s, value, locations, weights, item, c, to + c);
            const int64_t image = item / s.heads / s.queries;
            const int head = static_cast<int>(item % s.heads);
            for (; c < s.channels; ++c) {
                A sum = 0;
                for_each_sample(s, locations, weights, item, [&](int level, const Sample<A>& sample) {
                    const T* plane = value + s.plane(image, head, level) + c;
                    for (int i = 0; i < 4; ++i)
                        sum = multiply_add<A>(sample.weights[i], widen(plane[sample.corners[i]]), sum);
                });
                to[c] = narrow<T>(sum);
            }
        }
    });
}

// Adds to the sums at the corners, and returns the products of the gradient with the corners' values.
template <class T, class A>
void spread(const Shape& s, const T* plane, const T* grad, const Sample<A>& sample, A* sums, A (&dots)[4]) {
    constexpr int lanes = Lanes<A>::count;
    for (int i = 0; i < 4; ++i) {
        const T* corner = plane + sample.corners[i];
        A* to = sums + sample.corners[i];
        const A weight = sample.weights[i];
        Lanes<A> products = Lanes<A>::zero();
        int c = 0;
        for (; c + lanes <= s.channels; c += lanes) {
            const Lanes<A> own = Lanes<A>::load(grad + c);
            products.v += own.v * Lanes<A>::load(corner + c).v;
            if (weight == 0) continue;
            Lanes<A> sum = Lanes<A>::load(to + c);
            sum.add(weight, own);
            sum.store(to + c);
        }
        dots[i] = 0;
        for (int lane = 0; lane < lanes; ++lane) dots[i] += products.v[lane];
        for (; c < s.channels; ++c) {
            dots[i] = multiply_add<A>(widen(grad[c]), widen(corner[c]), dots[i]);
            if (weight != 0) to[c] = multiply_add<A>(weight, widen(grad[c]), to[c]);
        }
    }
}

// A task owns a head of a level of an image, in the sums and in the other gradients, so that the results do not depend
// on the number of threads.
template <class T, class A>
void differentiate(const Shape& s, const T* grad, const T* value, const A* locations, const A* weights, A* sums,
                   A* grad_locations, A* grad_weights) {
    parallel_tasks(s.batch * s.heads * s.levels, [&](int64_t task) {
        const int level = static_cast<int>(task % s.levels), head = static_cast<int>(task / s.levels % s.heads);
        const int64_t image = task / s.levels / s.heads, plane = s.plane(image, head, level);
        for (int64_t query = 0; query < s.queries; ++query) {
            const int64_t item = (image * s.queries + query) * s.heads + head;
            for (int point = 0; point < s.points; ++point) {
                const int64_t at = item * s.samples() + level * s.points + point;
                const BilinearTap<A> tap = s.tap(locations + 2 * at, level);
                A dots[4] = {}, value_here, by_y, by_x;
                if (tap.pixel >= 0)
                    spread(s, value + plane, grad + item * s.channels, Sample<A>(s, level, tap, weights[at]),
                           sums + plane, dots);
                tap.derive(dots, value_here, by_y, by_x);
                grad_locations[2 * at] = by_x * A(s.width[level]) * weights[at];
                grad_locations[2 * at + 1] = by_y * A(s.height[level]) * weights[at];
                grad_weights[at] = value_here;
            }
        }
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
        const std::vector<int64_t> sizes{s.batch, s.positions, s.heads, s.channels};
        Tensor sums = new_tensor(sizes, scalar_type_of<A>());
        torch::stable::zero_(sums);
        grad_locations = torch::stable::empty_like(places);
        grad_weights = torch::stable::empty_like(factors);
        differentiate(s, data<T>(grads), data<T>(values), data<A>(places), data<A>(factors), mutable_data<A>(sums),
                      mutable_data<A>(grad_locations), mutable_data<A>(grad_weights));
        grad_value = as<T>(sums);
    });
    return {grad_value, torch::stable::to(grad_locations, locations.scalar_type()),
            torch::stable::to(grad_weights, weights.scalar_type())};
}

}  // namespace detcore::ms_deform_attn

STABLE_TORCH_LIBRARY_IMPL(detcore, CPU, m) {
    m.impl("ms_deform_attn", TORCH_BOX(&detcore::ms_deform_attn::forward));
    m.impl("ms_deform_attn_backward", TORCH_BOX(&detcore::ms_deform_attn::backward));
}
