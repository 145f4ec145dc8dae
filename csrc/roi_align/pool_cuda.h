// The forward kernel: a block pools one RoI, a warp a row of its bins. Blocks that run together read the same image,
// whose features then stay in the L2 cache, and the warps of a block share pixels through the L1 cache.
#pragma once

#include "roi_align/plan_cuda.h"

namespace detcore::roi_align {

constexpr int kPoolWarps = 8;

template <class A>
struct alignas(16) Sample {
    A rest_y, rest_x;
    int pixel;  // above and left of the sample; -1: the sample reads nothing
    int steps;  // 1: the pixel has one to its right, 2: one below
};

// Sample `index` of a row of bins, which lists bin after bin.
template <class A>
__device__ Sample<A> sample_at(const Grid<A>& grid, int row, int64_t index, const Level<A>& level) {
    const int64_t per_bin = int64_t{grid.y.samples} * grid.x.samples;
    const int column = static_cast<int>(quotient(index, per_bin));
    const int64_t rest = index - column * per_bin;
    const int i = static_cast<int>(quotient(rest, grid.x.samples));
    const Place<A> place = grid.place(row, i, column, static_cast<int>(rest - int64_t{i} * grid.x.samples));
    const Between<A> y = between(place.y, level.height), x = between(place.x, level.width);
    if (y.low < 0 || x.low < 0) return {A(0), A(0), -1, 0};
    return {y.rest, x.rest, y.low * level.width + x.low,
            (x.low + 1 < level.width ? 1 : 0) | (y.low + 1 < level.height ? 2 : 0)};
}

template <class T, int kPack, int kPacks>
__device__ void add_sample(const LaneChannels<T, kPack, kPacks>& lane, const T* plane, int width,
                           const Sample<Accumulator<T>>& sample, Accumulator<T> (&sums)[kPack * kPacks]) {
    using A = Accumulator<T>;
    const T* pixel = plane + int64_t{sample.pixel} * lane.channels;
    const int64_t right = sample.steps & 1 ? lane.channels : 0;
    const int64_t down = sample.steps & 2 ? int64_t{width} * lane.channels : 0;
    Pack<T, kPack> taps[4][kPacks];
    lane.load(pixel, taps[0]);
    lane.load(pixel + right, taps[1]);
    lane.load(pixel + down, taps[2]);
    lane.load(pixel + down + right, taps[3]);
    const A low = 1 - sample.rest_y;
    lane.add(low * (1 - sample.rest_x), taps[0], sums);
    lane.add(low * sample.rest_x, taps[1], sums);
    lane.add(sample.rest_y * (1 - sample.rest_x), taps[2], sums);
    lane.add(sample.rest_y * sample.rest_x, taps[3], sums);
}

// A warp's chunk of channels of one row of bins. Each lane finds one sample, then all lanes read it.
template <class T, int kPack, int kPacks>
__device__ void pool_row(const LaneChannels<T, kPack, kPacks>& lane, const Grid<Accumulator<T>>& grid,
                         const Level<Accumulator<T>>& level, const T* plane, int row, int out_width,
                         Sample<Accumulator<T>>* samples, T* out) {
    using A = Accumulator<T>;
    const int64_t per_bin = int64_t{grid.y.samples} * grid.x.samples, total = per_bin * out_width;
    const A share = A(1) / (A(grid.y.samples) * A(grid.x.samples));
    A sums[kPack * kPacks] = {};
    int64_t in_bin = 0;
    for (int64_t base = 0; base < total; base += kWarp) {
        const int count = static_cast<int>(total - base < kWarp ? total - base : kWarp);
        const int own = threadIdx.x % kWarp;
        __syncwarp();
        if (own < count) samples[own] = sample_at(grid, row, base + own, level);
        __syncwarp();
        for (int i = 0; i < count; ++i) {
            const Sample<A> sample = samples[i];
            if (sample.pixel >= 0) add_sample(lane, plane, level.width, sample, sums);
            if (++in_bin < per_bin) continue;
            lane.store(out, sums, share);
            out += lane.channels;
            in_bin = 0;
#pragma unroll
            for (A& sum : sums) sum = 0;
        }
    }
}

template <class T, int kPack, int kPacks>
__global__ void __launch_bounds__(kPoolWarps* kWarp, 4)
    pool_rois(const __grid_constant__ Maps<const T> features, const __grid_constant__ Pyramid<Accumulator<T>> pyramid,
              const Grid<Accumulator<T>>* grids, const int* order, int out_height, int out_width, int channels,
              T* out) {
    using A = Accumulator<T>;
    using Lane = LaneChannels<T, kPack, kPacks>;
    __shared__ Sample<A> samples[kPoolWarps][kWarp];
    const int k = order[blockIdx.x], warp = threadIdx.x / kWarp, num_warps = blockDim.x / kWarp;
    const Grid<A> grid = grids[k];
    const bool reads = grid.level >= 0 && grid.y.samples > 0 && grid.x.samples > 0;
    const Level<A> level = pyramid.levels[reads ? grid.level : 0];
    const T* plane = features.data[reads ? grid.level : 0];
    if (reads) plane += int64_t{grid.image} * level.height * level.width * channels;
    const int chunks = (channels + Lane::kChunk - 1) / Lane::kChunk;
    for (int64_t item = warp; item < int64_t{out_height} * chunks; item += num_warps) {
        const int chunk = static_cast<int>(item / out_height), row = static_cast<int>(item % out_height);
        const Lane lane(chunk, channels);
        T* to = out + (int64_t{k} * out_height + row) * out_width * channels;
        if (reads) {
            pool_row(lane, grid, level, plane, row, out_width, samples[warp], to);
            continue;
        }
        const A nothing[kPack * kPacks] = {};
        for (int column = 0; column < out_width; ++column) lane.store(to + int64_t{column} * channels, nothing, A(0));
    }
}

}  // namespace detcore::roi_align
