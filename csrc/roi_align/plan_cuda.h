// What comes before the kernels that move data: every RoI's grid, and an order in which RoIs that read the same map
// come together. All of it on the device, in the RoIs' own order within a map, so that sums have the same bits every
// time.
#pragma once

#include "common/cuda.h"
#include "roi_align/op.h"

namespace detcore::roi_align {

constexpr int kMaxLevels = 16;

template <class A>
struct Pyramid {
    Level<A> levels[kMaxLevels];
    int num_levels, batch;
};

// The first number of every level's map, channels last.
template <class T>
struct Maps {
    T* data[kMaxLevels];
};

inline __device__ int64_t quotient(int64_t a, int64_t b) {
    // Four times as fast where it is enough.
    if (((a | b) >> 32) == 0) return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
    return a / b;
}

// The channels that one lane of a warp works on: kPacks packs of kPack neighbours, a warp's width apart.
template <class T, int kPack, int kPacks>
struct LaneChannels {
    using A = Accumulator<T>;
    static constexpr int kCount = kPack * kPacks, kChunk = kWarp * kCount;
    using Packs = Pack<T, kPack>[kPacks];
    using Sums = A[kCount];

    int first, channels;

    __device__ LaneChannels(int chunk, int num_channels)
        : first(chunk * kChunk + static_cast<int>(threadIdx.x % kWarp) * kPack), channels(num_channels) {}

    __device__ bool has(int pack) const { return first + pack * kWarp * kPack < channels; }

    __device__ void load(const T* pixel, Packs& packs) const {
#pragma unroll
        for (int j = 0; j < kPacks; ++j)
            packs[j] = has(j) ? Pack<T, kPack>::load(pixel + first + j * kWarp * kPack) : Pack<T, kPack>{};
    }

    __device__ void store(T* pixel, const Sums& sums, A factor) const {
#pragma unroll
        for (int j = 0; j < kPacks; ++j) {
            Pack<T, kPack> pack;
#pragma unroll
            for (int i = 0; i < kPack; ++i) pack.values[i] = narrow<T>(sums[j * kPack + i] * factor);
            if (has(j)) pack.store(pixel + first + j * kWarp * kPack);
        }
    }

    static __device__ void add(A weight, const Packs& packs, Sums& sums) {
#pragma unroll
        for (int i = 0; i < kCount; ++i)
            sums[i] = multiply_add<A>(weight, widen(packs[i / kPack].values[i % kPack]), sums[i]);
    }
};

// Each RoI's grid and the number of the map that it reads, level by level and image by image; num_levels * batch for
// none. RoIs have five numbers, turned ones six.
template <class A>
__global__ void make_grids(const A* rois, const bool* valid, int count, bool turned,
                           const __grid_constant__ Pyramid<A> pyramid, const __grid_constant__ Parameters<A> p,
                           Grid<A>* grids, int* maps) {
    const int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= count) return;
    Grid<A> grid = turned ? turned_grid(rois + int64_t{6} * k, pyramid.batch, pyramid.levels[0], p)
                          : upright_grid(rois + int64_t{5} * k, pyramid.batch, pyramid.levels, pyramid.num_levels, p);
    if (valid && !valid[k]) grid.level = -1;
    grids[k] = grid;
    maps[k] = grid.level < 0 ? pyramid.num_levels * pyramid.batch : grid.level * pyramid.batch + grid.image;
}

constexpr int kOrderThreads = 1024;

// Block m lists the RoIs of map m at order[first[m]] to order[first[m + 1]].
static __global__ void __launch_bounds__(kOrderThreads) order_rois(const int* maps, int count, int* order, int* first) {
    __shared__ int totals[kWarp];  // of a block's warps, which are as many as a warp has lanes
    const int map = blockIdx.x, lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    int before = 0;
    for (int k = threadIdx.x; k < count; k += kOrderThreads) before += maps[k] < map;
    before = __reduce_add_sync(kAllLanes, before);
    if (lane == 0) totals[warp] = before;
    __syncthreads();
    int place = __reduce_add_sync(kAllLanes, totals[lane]);
    __syncthreads();
    if (threadIdx.x == 0) {
        first[map] = place;
        if (map + 1 == gridDim.x) first[map + 1] = count;
    }
    for (int base = 0; base < count; base += kOrderThreads) {
        const int k = base + threadIdx.x;
        const bool own = k < count && maps[k] == map;
        const unsigned owners = __ballot_sync(kAllLanes, own);
        if (lane == 0) totals[warp] = __popc(owners);
        __syncthreads();
        const int total = totals[lane];
        const int ahead = __reduce_add_sync(kAllLanes, lane < warp ? total : 0);
        if (own) order[place + ahead + __popc(owners & ((1u << lane) - 1))] = k;
        place += __reduce_add_sync(kAllLanes, total);
        __syncthreads();
    }
}

}  // namespace detcore::roi_align
