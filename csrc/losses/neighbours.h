// Four neighbours of a row of numbers, moved at once where all four exist.
#pragma once

#include "common/cuda.h"

namespace detcore::losses {

constexpr int kThreads = 256, kNeighbours = 4;

template <class T>
using Neighbours = Pack<T, kNeighbours>;

template <class T>
__device__ inline Neighbours<T> load(const T* from, int64_t first, int64_t count) {
    if (first + kNeighbours <= count) return Neighbours<T>::load(from + first);
    Neighbours<T> out;
#pragma unroll
    for (int k = 0; k < kNeighbours; ++k) out.values[k] = from[first + k < count ? first + k : first];
    return out;
}

template <class T>
__device__ inline void store(const Neighbours<T>& values, T* to, int64_t first, int64_t count) {
    if (first + kNeighbours <= count) return values.store(to + first);
#pragma unroll
    for (int k = 0; k < kNeighbours; ++k)
        if (first + k < count) to[first + k] = values.values[k];
}

}  // namespace detcore::losses
