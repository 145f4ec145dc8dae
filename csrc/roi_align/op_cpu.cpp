// Features lie with the channels last, so that a tap is one run of memory; others are brought into that order first.
// Samples of a bin that fall on the same pixel are one tap, and the weights of the two axes multiply.
#include "roi_align/op.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "common/lanes.h"
#include "common/tensor.h"
#include "roi_align/read_cpu.h"
#include "roi_align/taps.h"
#include "roi_align/transpose.h"

namespace detcore::roi_align {
namespace {

constexpr int kUnroll = 4;

// kVectors vectors of channels of one bin.
template <int kVectors, class T, class A>
inline void pool_channels(const T* plane, int64_t width, int64_t channels, const Tap<A>* y, const Tap<A>* y_end,
                          const Tap<A>* x, const Tap<A>* x_end, T* out) {
    Lanes<A> sum[kVectors];
    for (auto& lanes : sum) lanes = Lanes<A>::zero();
    for (; y != y_end; ++y) {
        const T* row = plane + y->pixel * width * channels;
        for (const Tap<A>* tap = x; tap != x_end; ++tap) {
            const A weight = y->weight * tap->weight;
            const T* from = row + tap->pixel * channels;
            for (int v = 0; v < kVectors; ++v) sum[v].add(weight, Lanes<A>::load(from + v * Lanes<A>::count));
        }
    }
    for (int v = 0; v < kVectors; ++v) sum[v].store(out + v * Lanes<A>::count);
}

template <class T, class A>
void pool_bin(const T* plane, int64_t width, int64_t channels, const Tap<A>* y, const Tap<A>* y_end, const Tap<A>* x,
              const Tap<A>* x_end, T* out) {
    constexpr int lanes = Lanes<A>::count;
    int64_t c = 0;
    for (; c + kUnroll * lanes <= channels; c += kUnroll * lanes)
        pool_channels<kUnroll>(plane + c, width, channels, y, y_end, x, x_end, out + c);
    for (; c + lanes <= channels; c += lanes) pool_channels<1>(plane + c, width, channels, y, y_end, x, x_end, out + c);
    for (; c < channels; ++c) {
        A sum = 0;
        for (const Tap<A>* row = y; row != y_end; ++row)
            for (const Tap<A>* tap = x; tap != x_end; ++tap)
                sum = multiply_add<A>(row->weight * tap->weight,
                                      widen(plane[(row->pixel * width + tap->pixel) * channels + c]), sum);
        out[c] = narrow<T>(sum);
    }
}

template <class T>
void pool(const std::vector<Tensor>& features, const std::vector<Grid<Accumulator<T>>>& rois,
          const std::vector<Level<Accumulator<T>>>& levels, const Parameters<Accumulator<T>>& p, bool channels_last,
          Tensor& out) {
    using A = Accumulator<T>;
    const int64_t channels = features[0].size(1), bins = int64_t{p.out_height} * p.out_width;
    std::vector<Tensor> last;
    for (const Tensor& feature : features)
        last.push_back(with_channels_last<T>(feature));
    T* pooled = mutable_data<T>(out);
    const auto pool_range = [&](int64_t begin, int64_t end) {
        Taps<A> x, y;
        std::vector<T> own(channels_last ? 0 : bins * channels);
        for (int64_t k = begin; k < end; ++k) {
            T* to = pooled + k * bins * channels;
            const Grid<A>& roi = rois[k];
            if (roi.level < 0) {
                std::fill_n(to, bins * channels, T{});
                continue;
            }
            const int64_t height = levels[roi.level].height, width = levels[roi.level].width;
            x.make(roi.x, p.out_width, levels[roi.level].width);
            y.make(roi.y, p.out_height, levels[roi.level].height);
            const T* plane = data<T>(last[roi.level]) + roi.image * height * width * channels;
            T* bin = channels_last ? to : own.data();
            for (int row = 0; row < p.out_height; ++row)
                for (int column = 0; column < p.out_width; ++column, bin += channels)
                    pool_bin(plane, width, channels, &y.taps[0] + y.first[row], &y.taps[0] + y.first[row + 1],
                             &x.taps[0] + x.first[column], &x.taps[0] + x.first[column + 1], bin);
            if (!channels_last) transpose(own.data(), channels, bins, channels, to, bins);
        }
    };
    torch::stable::parallel_for(0, static_cast<int64_t>(rois.size()), 8, pool_range);
}

// Adds a RoI's gradient to the pixels of one row: the bins' shares first, then each share to the bin's taps.
template <class T, class A>
void add_row(const T* grad, int64_t channels, const Parameters<A>& p, const Tap<A>* y, const Tap<A>* y_end,
             const Taps<A>& x, A* row) {
    constexpr int lanes = Lanes<A>::count;
    for (int column = 0; column < p.out_width; ++column) {
        const Tap<A>*begin = x.taps.data() + x.first[column], *end = x.taps.data() + x.first[column + 1];
        const auto grad_of = [&](const Tap<A>* tap) { return grad + (tap->bin * p.out_width + column) * channels; };
        int64_t c = 0;
        for (; c + kUnroll * lanes <= channels; c += kUnroll * lanes) {
            Lanes<A> share[kUnroll];
            for (auto& one : share) one = Lanes<A>::zero();
            for (const Tap<A>* tap = y; tap != y_end; ++tap)
                for (int v = 0; v < kUnroll; ++v)
                    share[v].add(tap->weight, Lanes<A>::load(grad_of(tap) + c + v * lanes));
            for (const Tap<A>* tap = begin; tap != end; ++tap) {
                for (int v = 0; v < kUnroll; ++v) {
                    A* to = row + tap->pixel * channels + c + v * lanes;
                    Lanes<A> sum = Lanes<A>::load(to);
                    sum.add(tap->weight, share[v]);
                    sum.store(to);
                }
            }
        }
        for (; c < channels; ++c) {
            A share = 0;
            for (const Tap<A>* tap = y; tap != y_end; ++tap)
                share = multiply_add<A>(tap->weight, widen(grad_of(tap)[c]), share);
            for (const Tap<A>* tap = begin; tap != end; ++tap) {
                A& to = row[tap->pixel * channels + c];
                to = multiply_add<A>(tap->weight, share, to);
            }
        }
    }
}

template <class T>
void unpool(const Tensor& grad, const std::vector<Grid<Accumulator<T>>>& rois,
            const std::vector<Level<Accumulator<T>>>& levels, int64_t batch, const Parameters<Accumulator<T>>& p,
            bool channels_last, std::vector<Tensor>& out) {
    using A = Accumulator<T>;
    const int64_t channels = grad.size(1), bins = int64_t{p.out_height} * p.out_width;
    const Tensor last = with_channels_last<T>(grad);
    const auto add = [&](int64_t k, const Strip& strip, A* sum) {
        thread_local Taps<A> x, y;
        const Level<A>& level = levels[strip.level];
        y.make(rois[k].y, p.out_height, level.height);
        y.sort_by_pixel();
        if (y.taps.empty() || y.taps.front().pixel >= strip.end_row || y.taps.back().pixel < strip.first_row) return;
        x.make(rois[k].x, p.out_width, level.width);
        const Tap<A>*tap = y.taps.data(), *end = tap + y.taps.size();
        while (tap != end) {
            const Tap<A>* next = tap;
            while (next != end && next->pixel == tap->pixel) ++next;
            if (tap->pixel >= strip.first_row && tap->pixel < strip.end_row)
                add_row(data<T>(last) + k * bins * channels, channels, p, tap, next, x,
                        sum + (tap->pixel - strip.first_row) * level.width * channels);
            tap = next;
        }
    };
    gather_strips<T>(rois, levels, batch, channels, channels_last, out, add);
}

template <class A>
std::vector<Grid<A>> read_rois(const Tensor& rois, const std::optional<Tensor>& valid,
                               const std::vector<Level<A>>& levels, int64_t batch, const Parameters<A>& p) {
    return read_grids<A>(rois, valid, [&](const A* row) {
        return upright_grid(row, batch, levels.data(), static_cast<int>(levels.size()), p);
    });
}

template <class A>
Parameters<A> parameters(int64_t height, int64_t width, int64_t sampling_ratio, bool aligned, double canonical_size,
                         int64_t canonical_level) {
    return {static_cast<int>(height), static_cast<int>(width),          static_cast<int>(sampling_ratio), aligned,
            A(canonical_size),        static_cast<int>(canonical_level)};
}

}  // namespace

Tensor forward(const std::vector<Tensor>& features, const Tensor& rois, const std::optional<Tensor>& valid,
               const std::vector<double>& scales, int64_t height, int64_t width, int64_t sampling_ratio, bool aligned,
               double canonical_size, int64_t canonical_level, bool channels_last) {
    const Tensor& first = features[0];
    for (const Tensor& feature : features) {
        STD_TORCH_CHECK(feature.scalar_type() == first.scalar_type(), "roi_align: the levels' dtypes differ");
        STD_TORCH_CHECK(feature.size(0) == first.size(0) && feature.size(1) == first.size(1),
                        "roi_align: the levels' batch or channels differ");
    }
    Tensor out = new_tensor({rois.size(0), first.size(1), height, width}, first.scalar_type(), channels_last);
    dispatch_float(first.scalar_type(), [&]<class T>(T) {
        using A = Accumulator<T>;
        const auto p = parameters<A>(height, width, sampling_ratio, aligned, canonical_size, canonical_level);
        std::vector<Level<A>> levels;
        for (size_t i = 0; i < features.size(); ++i)
            levels.push_back(
                {static_cast<int>(features[i].size(2)), static_cast<int>(features[i].size(3)), A(scales[i])});
        pool<T>(features, read_rois<A>(rois, valid, levels, first.size(0), p), levels, p, channels_last, out);
    });
    return out;
}

std::vector<Tensor> backward(const Tensor& grad, const Tensor& rois, const std::optional<Tensor>& valid,
                             const std::vector<double>& scales, const std::vector<int64_t>& heights,
                             const std::vector<int64_t>& widths, int64_t batch, int64_t sampling_ratio, bool aligned,
                             double canonical_size, int64_t canonical_level, bool channels_last) {
    std::vector<Tensor> out;
    for (size_t i = 0; i < heights.size(); ++i)
        out.push_back(new_tensor({batch, grad.size(1), heights[i], widths[i]}, grad.scalar_type(), channels_last));
    dispatch_float(grad.scalar_type(), [&]<class T>(T) {
        using A = Accumulator<T>;
        const auto p =
            parameters<A>(grad.size(2), grad.size(3), sampling_ratio, aligned, canonical_size, canonical_level);
        std::vector<Level<A>> levels;
        for (size_t i = 0; i < heights.size(); ++i)
            levels.push_back({static_cast<int>(heights[i]), static_cast<int>(widths[i]), A(scales[i])});
        unpool<T>(grad, read_rois<A>(rois, valid, levels, batch, p), levels, batch, p, channels_last, out);
    });
    return out;
}

}  // namespace detcore::roi_align

STABLE_TORCH_LIBRARY_IMPL(detcore, CPU, m) {
    m.impl("roi_align", TORCH_BOX(&detcore::roi_align::forward));
    m.impl("roi_align_backward", TORCH_BOX(&detcore::roi_align::backward));
}
