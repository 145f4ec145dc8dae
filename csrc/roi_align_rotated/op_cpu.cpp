// RoIAlign on a grid that is turned with the box. Features lie with the channels last, so that a tap is one run of
// memory; others are brought into that order first.
#include <optional>
#include <vector>

#include "common/lanes.h"
#include "common/parallel.h"
#include "common/tensor.h"
#include "roi_align/nearby.h"
#include "roi_align/read_cpu.h"
#include "roi_align/transpose.h"

namespace detcore::roi_align {
namespace {

constexpr int kUnroll = 4;

template <class A>
struct Tap {
    int64_t at;  // of the pixel's first channel
    A weight;
};

// Calls f(row, column, weight) for the pixels of one sample that are in the map and count, up to four.
template <class A, class F>
void for_taps(const Grid<A>& grid, int row, int i, int column, int j, const Level<A>& level, const F& f) {
    const Place<A> place = grid.place(row, i, column, j);
    const Between<A> y = between(place.y, level.height), x = between(place.x, level.width);
    if (y.low < 0 || x.low < 0) return;
    const A share = A(1) / (A(grid.y.samples) * A(grid.x.samples));
    const A rows[2] = {(1 - y.rest) * share, y.rest * share}, columns[2] = {1 - x.rest, x.rest};
    for (int down = 0; down < 2; ++down)
        for (int right = 0; right < 2; ++right)
            if (const A weight = rows[down] * columns[right]; weight > 0) f(y.low + down, x.low + right, weight);
}

// kVectors vectors of channels of one bin.
template <int kVectors, class T, class A>
inline void pool_channels(const T* plane, const std::vector<Tap<A>>& taps, T* out) {
    Lanes<A> sum[kVectors];
    for (auto& lanes : sum) lanes = Lanes<A>::zero();
    for (const Tap<A>& tap : taps)
        for (int v = 0; v < kVectors; ++v) sum[v].add(tap.weight, Lanes<A>::load(plane + tap.at + v * Lanes<A>::count));
    for (int v = 0; v < kVectors; ++v) sum[v].store(out + v * Lanes<A>::count);
}

template <class T, class A>
void pool_bin(const T* plane, int64_t channels, const std::vector<Tap<A>>& taps, T* out) {
    constexpr int lanes = Lanes<A>::count;
    int64_t c = 0;
    for (; c + kUnroll * lanes <= channels; c += kUnroll * lanes) pool_channels<kUnroll>(plane + c, taps, out + c);
    for (; c + lanes <= channels; c += lanes) pool_channels<1>(plane + c, taps, out + c);
    for (; c < channels; ++c) {
        A sum = 0;
        for (const Tap<A>& tap : taps) sum = multiply_add<A>(tap.weight, widen(plane[tap.at + c]), sum);
        out[c] = narrow<T>(sum);
    }
}

// The taps of one bin on some rows of pixels; neighbouring samples that share a pixel become one.
template <class A>
void find_taps(const Grid<A>& grid, int row, int column, const Level<A>& level, int first_row, int end_row,
               int64_t channels, std::vector<Tap<A>>& taps) {
    constexpr size_t kLookBack = 8;
    taps.clear();
    for (int i = 0; i < grid.y.samples; ++i)
        for (int j = 0; j < grid.x.samples; ++j)
            for_taps(grid, row, i, column, j, level, [&](int y, int x, A weight) {
                if (y < first_row || y >= end_row) return;
                const int64_t at = (int64_t{y - first_row} * level.width + x) * channels;
                const size_t size = taps.size();
                for (size_t back = 1; back <= std::min(size, kLookBack); ++back)
                    if (taps[size - back].at == at) {
                        taps[size - back].weight += weight;
                        return;
                    }
                taps.push_back({at, weight});
            });
}

template <class T>
void pool(const Tensor& features, const std::vector<Grid<Accumulator<T>>>& grids, const Level<Accumulator<T>>& level,
          const Parameters<Accumulator<T>>& p, bool channels_last, Tensor& out) {
    using A = Accumulator<T>;
    const int64_t channels = features.size(1), bins = int64_t{p.out_height} * p.out_width;
    const Tensor last = with_channels_last<T>(features);
    T* pooled = mutable_data<T>(out);
    torch::stable::parallel_for(0, static_cast<int64_t>(grids.size()), 8, [&](int64_t begin, int64_t end) {
        std::vector<Tap<A>> taps;
        std::vector<T> own(channels_last ? 0 : bins * channels);
        for (int64_t k = begin; k < end; ++k) {
            T* to = pooled + k * bins * channels;
            if (grids[k].level < 0) {
                std::fill_n(to, bins * channels, T{});
                continue;
            }
            const T* plane = data<T>(last) + int64_t{grids[k].image} * level.height * level.width * channels;
            T* bin = channels_last ? to : own.data();
            for (int row = 0; row < p.out_height; ++row)
                for (int column = 0; column < p.out_width; ++column, bin += channels) {
                    find_taps(grids[k], row, column, level, 0, level.height, channels, taps);
                    pool_bin(plane, channels, taps, bin);
                }
            if (!channels_last) transpose(own.data(), channels, bins, channels, to, bins);
        }
    });
}

// Adds kVectors vectors of a bin's gradient to its taps.
template <int kVectors, class T, class A>
inline void add_channels(const T* grad, const std::vector<Tap<A>>& taps, A* sum) {
    Lanes<A> share[kVectors];
    for (int v = 0; v < kVectors; ++v) share[v] = Lanes<A>::load(grad + v * Lanes<A>::count);
    for (const Tap<A>& tap : taps)
        for (int v = 0; v < kVectors; ++v) {
            A* to = sum + tap.at + v * Lanes<A>::count;
            Lanes<A> total = Lanes<A>::load(to);
            total.add(tap.weight, share[v]);
            total.store(to);
        }
}

template <class T, class A>
void add_bin(const T* grad, int64_t channels, const std::vector<Tap<A>>& taps, A* sum) {
    constexpr int lanes = Lanes<A>::count;
    int64_t c = 0;
    for (; c + kUnroll * lanes <= channels; c += kUnroll * lanes) add_channels<kUnroll>(grad + c, taps, sum + c);
    for (; c + lanes <= channels; c += lanes) add_channels<1>(grad + c, taps, sum + c);
    for (; c < channels; ++c)
        for (const Tap<A>& tap : taps) sum[tap.at + c] = multiply_add<A>(tap.weight, widen(grad[c]), sum[tap.at + c]);
}

template <class T>
void unpool(const Tensor& grad, const std::vector<Grid<Accumulator<T>>>& grids, const Level<Accumulator<T>>& level,
            int64_t batch, const Parameters<Accumulator<T>>& p, bool channels_last, Tensor& out) {
    using A = Accumulator<T>;
    const int64_t channels = grad.size(1), bins = int64_t{p.out_height} * p.out_width;
    const Tensor last = with_channels_last<T>(grad);
    const auto add_roi = [&](int64_t k, const Strip& strip, A* sum) {
        thread_local std::vector<Tap<A>> taps;
        const Grid<A>& grid = grids[k];
        Range rows, columns;
        samples_near(grid, p.out_height, p.out_width, {strip.first_row, 0, strip.end_row, level.width}, rows, columns);
        if (rows.count() == 0 || columns.count() == 0) return;
        const int end_row = (rows.end - 1) / grid.y.samples + 1, end_column = (columns.end - 1) / grid.x.samples + 1;
        for (int row = rows.first / grid.y.samples; row < end_row; ++row)
            for (int column = columns.first / grid.x.samples; column < end_column; ++column) {
                find_taps(grid, row, column, level, strip.first_row, strip.end_row, channels, taps);
                add_bin(data<T>(last) + (k * bins + int64_t{row} * p.out_width + column) * channels, channels, taps,
                        sum);
            }
    };
    std::vector<Tensor> outs{out};
    gather_strips<T>(grids, {level}, batch, channels, channels_last, outs, add_roi);
}

template <class A>
std::vector<Grid<A>> read_rois(const Tensor& rois, const Level<A>& level, int64_t batch, const Parameters<A>& p) {
    return read_grids<A>(rois, std::nullopt, [&](const A* row) { return turned_grid(row, batch, level, p); });
}

template <class A>
Parameters<A> parameters(int64_t height, int64_t width, int64_t sampling_ratio) {
    return {static_cast<int>(height), static_cast<int>(width), static_cast<int>(sampling_ratio), true, A(1), 0};
}

Tensor forward(const Tensor& features, const Tensor& rois, double scale, int64_t height, int64_t width,
               int64_t sampling_ratio, bool channels_last) {
    Tensor out = new_tensor({rois.size(0), features.size(1), height, width}, features.scalar_type(), channels_last);
    dispatch_float(features.scalar_type(), [&]<class T>(T) {
        using A = Accumulator<T>;
        const auto p = parameters<A>(height, width, sampling_ratio);
        const Level<A> level{static_cast<int>(features.size(2)), static_cast<int>(features.size(3)), A(scale)};
        pool<T>(features, read_rois<A>(rois, level, features.size(0), p), level, p, channels_last, out);
    });
    return out;
}

Tensor backward(const Tensor& grad, const Tensor& rois, double scale, int64_t map_height, int64_t map_width,
                int64_t batch, int64_t sampling_ratio, bool channels_last) {
    Tensor out = new_tensor({batch, grad.size(1), map_height, map_width}, grad.scalar_type(), channels_last);
    dispatch_float(grad.scalar_type(), [&]<class T>(T) {
        using A = Accumulator<T>;
        const auto p = parameters<A>(grad.size(2), grad.size(3), sampling_ratio);
        const Level<A> level{static_cast<int>(map_height), static_cast<int>(map_width), A(scale)};
        unpool<T>(grad, read_rois<A>(rois, level, batch, p), level, batch, p, channels_last, out);
    });
    return out;
}

}  // namespace
}  // namespace detcore::roi_align

STABLE_TORCH_LIBRARY_IMPL(detcore, CPU, m) {
    m.impl("roi_align_rotated", TORCH_BOX(&detcore::roi_align::forward));
    m.impl("roi_align_rotated_backward", TORCH_BOX(&detcore::roi_align::backward));
}
