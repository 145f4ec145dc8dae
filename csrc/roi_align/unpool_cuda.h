// The backward kernel gathers: a block owns a tile of pixels and goes through the samples that touch it, RoI by RoI in
// rising order, so nothing is added twice at once and the sums have the same bits every time. A warp owns a row of the
// tile, whose sums stay in registers until they are written, once.
#pragma once

#include "roi_align/nearby.h"
#include "roi_align/plan_cuda.h"

namespace detcore::roi_align {

constexpr int kTile = 8;  // pixels a side
constexpr int kTileThreads = kTile * kWarp;

struct Tile {
    int map, level, image;
    Rectangle pixels;
};

// The part of a RoI's samples that may touch the tile.
struct Nearby {
    int roi;
    Range rows, columns;
};

// One sample, as the tile sees it.
template <class A>
struct Touch {
    int64_t bin;           // through all RoIs
    A upper, lower, rest;  // shares of the sample's two rows of pixels, and of its right column
    int16_t row, column;   // in the tile, of the pixel above and left; -2: touches nothing
};

template <class A>
struct TileMemory {
    Nearby nearby[kTileThreads];
    int64_t ends[kTileThreads];  // samples of nearby[0] to nearby[i]
    int64_t warp_ends[kTile];
    Touch<A> touches[kTileThreads];
};

inline DETCORE_HD int tiles_along(int size) {
    return (size + kTile - 1) / kTile;
}

// Coarse levels first: their few tiles have the most RoIs each.
template <class A>
__device__ Tile tile_of(int index, const Pyramid<A>& pyramid) {
    int level = pyramid.num_levels - 1, down = 0, across = 0;
    for (; level >= 0; --level) {
        down = tiles_along(pyramid.levels[level].height), across = tiles_along(pyramid.levels[level].width);
        if (index < pyramid.batch * down * across) break;
        index -= pyramid.batch * down * across;
    }
    const int image = index / (down * across), place = index % (down * across);
    const int top = place / across * kTile, left = place % across * kTile;
    return {level * pyramid.batch + image, level, image, {top, left, top + kTile, left + kTile}};
}

// Each thread looks at one RoI. Returns how many samples of all of them may touch the tile.
template <class A>
__device__ int64_t find_nearby(const Grid<A>* grids, int roi, int out_height, int out_width, const Tile& tile,
                               TileMemory<A>& memory) {
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    Nearby own{roi, {0, 0}, {0, 0}};
    if (roi >= 0) samples_near(grids[roi], out_height, out_width, tile.pixels, own.rows, own.columns);
    memory.nearby[threadIdx.x] = own;
    int64_t end = int64_t{own.rows.count()} * own.columns.count();
#pragma unroll
    for (int step = 1; step < kWarp; step *= 2) {
        const int64_t below = __shfl_up_sync(kAllLanes, end, step);
        if (lane >= step) end += below;
    }
    if (lane == kWarp - 1) memory.warp_ends[warp] = end;
    __syncthreads();
    for (int w = 0; w < warp; ++w) end += memory.warp_ends[w];
    memory.ends[threadIdx.x] = end;
    __syncthreads();
    return memory.ends[kTileThreads - 1];
}

// Sample `index` of those found nearby.
template <class A>
__device__ Touch<A> touch_of(int64_t index, const Grid<A>* grids, const Level<A>& level, int out_height, int out_width,
                             const Tile& tile, const TileMemory<A>& memory) {
    int owner = 0;  // the first whose end is beyond the index
#pragma unroll
    for (int step = kTileThreads / 2; step > 0; step /= 2)
        if (memory.ends[owner + step - 1] <= index) owner += step;
    const Nearby nearby = memory.nearby[owner];
    index -= owner ? memory.ends[owner - 1] : 0;
    const auto r = static_cast<int>(quotient(index, nearby.columns.count()));
    const auto c = static_cast<int>(index - int64_t{r} * nearby.columns.count());
    const Grid<A> grid = grids[nearby.roi];
    const int row = (nearby.rows.first + r) / grid.y.samples, i = (nearby.rows.first + r) % grid.y.samples;
    const int column = (nearby.columns.first + c) / grid.x.samples, j = (nearby.columns.first + c) % grid.x.samples;
    const Place<A> place = grid.place(row, i, column, j);
    const Between<A> y = between(place.y, level.height), x = between(place.x, level.width);
    const int down = y.low - tile.pixels.top, right = x.low - tile.pixels.left;
    if (y.low < 0 || x.low < 0 || down < -1 || down >= kTile || right < -1 || right >= kTile)
        return {0, A(0), A(0), A(0), -2, -2};
    const A share = A(1) / (A(grid.y.samples) * A(grid.x.samples));
    return {(int64_t{nearby.roi} * out_height + row) * out_width + column,
            (1 - y.rest) * share,
            y.rest * share,
            x.rest,
            static_cast<int16_t>(down),
            static_cast<int16_t>(right)};
}

// Adds to the sample's two pixels of a row. The column is the same for the whole warp; a case for each keeps the sums
// in registers.
template <class Lane>
__device__ __forceinline__ void add_to_row(int column, typename Lane::A left, typename Lane::A right,
                                           const typename Lane::Packs& packs, typename Lane::Sums (&sums)[kTile]) {
    static_assert(kTile == 8);
    const auto both = [&](typename Lane::Sums& one, typename Lane::Sums& other) {
        Lane::add(left, packs, one);
        Lane::add(right, packs, other);
    };
    switch (column) {
        case -1:
            return Lane::add(right, packs, sums[0]);
        case 0:
            return both(sums[0], sums[1]);
        case 1:
            return both(sums[1], sums[2]);
        case 2:
            return both(sums[2], sums[3]);
        case 3:
            return both(sums[3], sums[4]);
        case 4:
            return both(sums[4], sums[5]);
        case 5:
            return both(sums[5], sums[6]);
        case 6:
            return both(sums[6], sums[7]);
        default:
            return Lane::add(left, packs, sums[7]);
    }
}

// A warp adds what the listed samples give to its row of the tile.
template <class Lane, class T>
__device__ __forceinline__ void add_touches(const Lane& lane, const T* grad, const TileMemory<typename Lane::A>& memory,
                                            int row, typename Lane::Sums (&sums)[kTile]) {
    using A = typename Lane::A;
    const auto weight_of = [row](const Touch<A>& touch) {
        return touch.row == row ? touch.upper : (touch.row == row - 1 ? touch.lower : A(0));
    };
    for (int part = 0; part < kTileThreads; part += kWarp) {
        unsigned left = __ballot_sync(kAllLanes, weight_of(memory.touches[part + threadIdx.x % kWarp]) != 0);
        // Two at a time, so that two reads are under way.
        while (left) {
            const Touch<A>& one = memory.touches[part + __ffs(left) - 1];
            left &= left - 1;
            const Touch<A>& other = left ? memory.touches[part + __ffs(left) - 1] : one;
            const bool pair = left != 0;
            left &= left - 1;
            typename Lane::Packs packs[2];
            lane.load(grad + one.bin * lane.channels, packs[0]);
            if (pair) lane.load(grad + other.bin * lane.channels, packs[1]);
            const A weight = weight_of(one);
            add_to_row<Lane>(one.column, weight * (1 - one.rest), weight * one.rest, packs[0], sums);
            if (!pair) break;
            const A second = weight_of(other);
            add_to_row<Lane>(other.column, second * (1 - other.rest), second * other.rest, packs[1], sums);
        }
    }
}

template <class T, int kPack, int kPacks>
__global__ void __launch_bounds__(kTileThreads, 2)
    unpool_tiles(const T* grad, const __grid_constant__ Pyramid<Accumulator<T>> pyramid,
                 const Grid<Accumulator<T>>* grids, const int* order, const int* first, int out_height, int out_width,
                 int channels, const __grid_constant__ Maps<T> out) {
    using A = Accumulator<T>;
    using Lane = LaneChannels<T, kPack, kPacks>;
    __shared__ TileMemory<A> memory;
    const Tile tile = tile_of(static_cast<int>(blockIdx.x), pyramid);
    const Level<A> level = pyramid.levels[tile.level];
    const Lane lane(blockIdx.y, channels);
    const int row = threadIdx.x / kWarp;
    typename Lane::Sums sums[kTile] = {};
    const int end = first[tile.map + 1];
    for (int base = first[tile.map]; base < end; base += kTileThreads) {
        const int place = base + static_cast<int>(threadIdx.x);
        const int roi = place < end ? order[place] : -1;
        const int64_t total = find_nearby(grids, roi, out_height, out_width, tile, memory);
        for (int64_t at = 0; at < total; at += kTileThreads) {
            const int64_t index = at + threadIdx.x;
            memory.touches[threadIdx.x] = index < total
                                              ? touch_of(index, grids, level, out_height, out_width, tile, memory)
                                              : Touch<A>{0, A(0), A(0), A(0), -2, -2};
            __syncthreads();
            add_touches(lane, grad, memory, row, sums);
            __syncthreads();
        }
    }
    const int y = tile.pixels.top + row;
    if (y >= level.height) return;
    T* to =
        out.data[tile.level] + ((int64_t{tile.image} * level.height + y) * level.width + tile.pixels.left) * channels;
#pragma unroll
    for (int x = 0; x < kTile; ++x)
        if (tile.pixels.left + x < level.width) lane.store(to + int64_t{x} * channels, sums[x], A(1));
}

}  // namespace detcore::roi_align
