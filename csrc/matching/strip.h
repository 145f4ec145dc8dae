// What a block of threads does with its strip of anchors.
#pragma once

#include <cstdint>

#include "common/cuda.h"
#include "matching/op.h"

namespace detcore::matching {

constexpr int kThreads = 256, kPerThread = 4, kStrip = kThreads * kPerThread, kWarps = kThreads / kWarp;

// IoUs are at least 0, and such numbers have the order of their bits.
template <class A>
using Bits = std::conditional_t<sizeof(A) == 8, unsigned long long, unsigned>;

__device__ inline unsigned to_bits(float x) {
    return __float_as_uint(x);
}
__device__ inline unsigned long long to_bits(double x) {
    return static_cast<unsigned long long>(__double_as_longlong(x));
}
__device__ inline float from_bits(unsigned x) {
    return __uint_as_float(x);
}
__device__ inline double from_bits(unsigned long long x) {
    return __longlong_as_double(static_cast<long long>(x));
}

// What other threads may be raising meanwhile; an older value is good enough.
template <class B>
__device__ inline B volatile_load(const B* from) {
    return *const_cast<const volatile B*>(from);
}

__device__ inline unsigned warp_max(unsigned x) {
    return __reduce_max_sync(kAllLanes, x);
}
__device__ inline unsigned long long warp_max(unsigned long long x) {
    for (int step = kWarp / 2; step > 0; step /= 2) x = max(x, __shfl_xor_sync(kAllLanes, x, step));
    return x;
}

// Ground truths that a block's anchors meet, one of each thread at most.
template <class A>
struct Passing {
    struct alignas(16) Corners {
        A x1, y1, x2, y2;
    };
    Corners corners[kThreads];
    A area[kThreads];
    Bits<A> reached[kThreads];  // the best IoU of each, in this block
    int index[kThreads];

    __device__ void put(int at, const Box<A>& box, Bits<A> known, int own_index) {
        corners[at] = {box.x1, box.y1, box.x2, box.y2};
        area[at] = box.area;
        reached[at] = known;
        index[at] = own_index;
    }
    __device__ Box<A> box(int at) const {
        const Corners c = corners[at];
        return {c.x1, c.y1, c.x2, c.y2, area[at]};
    }
};

// Anchor k of a thread is `first + k * kThreads + threadIdx.x`; what is behind the last one meets nothing.
template <class A>
__device__ inline void load(Box<A> (&anchors)[kPerThread], const A* from, int64_t first, int64_t count) {
#pragma unroll
    for (int k = 0; k < kPerThread; ++k) {
        const int64_t at = first + k * kThreads + threadIdx.x;
        anchors[k] = at < count ? read_box(from + 4 * at) : nowhere<A>();
    }
}

// The smallest box around all anchors of the block, known to all its threads.
template <class A>
__device__ inline Box<A> block_hull(const Box<A> (&anchors)[kPerThread], A (&corners)[4][kWarps]) {
    Box<A> hull = nowhere<A>();
    const auto widen_to = [&](A x1, A y1, A x2, A y2) {
        hull.x1 = lesser(hull.x1, x1), hull.y1 = lesser(hull.y1, y1);
        hull.x2 = greater(hull.x2, x2), hull.y2 = greater(hull.y2, y2);
    };
#pragma unroll
    for (int k = 0; k < kPerThread; ++k) widen_to(anchors[k].x1, anchors[k].y1, anchors[k].x2, anchors[k].y2);
    for (int step = kWarp / 2; step > 0; step /= 2)
        widen_to(__shfl_xor_sync(kAllLanes, hull.x1, step), __shfl_xor_sync(kAllLanes, hull.y1, step),
                 __shfl_xor_sync(kAllLanes, hull.x2, step), __shfl_xor_sync(kAllLanes, hull.y2, step));
    const int warp = threadIdx.x / kWarp;
    if (threadIdx.x % kWarp == 0) {
        corners[0][warp] = hull.x1, corners[1][warp] = hull.y1;
        corners[2][warp] = hull.x2, corners[3][warp] = hull.y2;
    }
    __syncthreads();
    for (int i = 0; i < kWarps; ++i) widen_to(corners[0][i], corners[1][i], corners[2][i], corners[3][i]);
    return hull;
}

// Gives the threads that stay consecutive slots in their own order; returns how many stay, to all threads.
__device__ inline int compact(bool stays, int& slot, int (&scratch)[kWarps]) {
    const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const unsigned ballot = __ballot_sync(kAllLanes, stays);
    if (lane == 0) scratch[warp] = __popc(ballot);
    __syncthreads();
    slot = __popc(ballot & ((1u << lane) - 1));
    int total = 0;
    for (unsigned i = 0; i < kWarps; ++i) {
        if (i < warp) slot += scratch[i];
        total += scratch[i];
    }
    __syncthreads();
    return total;
}

// One ground truth meets the thread's anchors: their best IoU and its index, and with `track` the ground truth's best.
// Few pairs improve either, so the division waits behind a test by products. Its margin is wider than all roundings:
// it lets too much through at times, but holds back nothing that improves.
template <bool track, class A>
__device__ inline void meet(const Box<A> (&anchors)[kPerThread], Passing<A>& passing, int i, A (&best)[kPerThread],
                            int (&matched)[kPerThread]) {
    constexpr A margin = 1 - 16 * std::numeric_limits<A>::epsilon();
    const Box<A> box = passing.box(i);
    const A reached = track ? from_bits(volatile_load(&passing.reached[i])) : A(0);
    A intersection[kPerThread], sum[kPerThread];
    bool may_improve[kPerThread], any = false;
#pragma unroll
    for (int k = 0; k < kPerThread; ++k) {
        const Box<A>& anchor = anchors[k];
        const A width = greater(lesser(anchor.x2, box.x2) - greater(anchor.x1, box.x1), A(0));
        // Not above 0 where they do not meet; where they do, this is the intersection of `iou`.
        intersection[k] = width * (lesser(anchor.y2, box.y2) - greater(anchor.y1, box.y1));
        sum[k] = anchor.area + box.area - intersection[k];
        const A least = track ? lesser(best[k], reached) : best[k];
        may_improve[k] = intersection[k] > 0 && intersection[k] >= least * margin * sum[k];
        any |= may_improve[k];
    }
    A most = 0;
    if (any) {
#pragma unroll
        for (int k = 0; k < kPerThread; ++k) {
            if (!may_improve[k]) continue;
            const A iou = quotient(intersection[k], sum[k]);
            if (iou > best[k]) {
                best[k] = iou;
                matched[k] = passing.index[i];
            }
            most = greater(most, iou);
        }
    }
    if (track && __any_sync(kAllLanes, most > reached)) {
        const Bits<A> highest = warp_max(to_bits(most));
        if (threadIdx.x % kWarp == 0) atomicMax(&passing.reached[i], highest);
    }
}

}  // namespace detcore::matching
