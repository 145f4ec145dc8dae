// Channels last to channels first, and back.
#pragma once

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "common/parallel.h"
#include "common/tensor.h"

namespace detcore::roi_align {

// One block of what `transpose` does, of up to a cache line's numbers each way.
template <class T, class A>
inline void transpose_block(const A* from, int64_t from_stride, int64_t rows, int64_t columns, T* to,
                            int64_t to_stride) {
    int64_t column = 0;
#if defined(__SSE2__)
    if constexpr (std::is_same_v<T, float> && std::is_same_v<A, float>) {
        for (; rows % 4 == 0 && column + 4 <= columns; column += 4)
            for (int64_t row = 0; row < rows; row += 4) {
                __m128 four[4];
                for (int i = 0; i < 4; ++i) four[i] = _mm_loadu_ps(from + (row + i) * from_stride + column);
                _MM_TRANSPOSE4_PS(four[0], four[1], four[2], four[3]);
                for (int i = 0; i < 4; ++i) _mm_storeu_ps(to + (column + i) * to_stride + row, four[i]);
            }
    }
#endif
    for (; column < columns; ++column)
        for (int64_t row = 0; row < rows; ++row) {
            if constexpr (std::is_same_v<T, A>) {
                to[column * to_stride + row] = from[row * from_stride + column];
            } else {
                to[column * to_stride + row] = narrow<T>(from[row * from_stride + column]);
            }
        }
}

// to[column * to_stride + row] = from[row * from_stride + column], in squares of a cache line's width: so a line that
// is read or written for one number is still at hand for its others.
template <class T, class A>
void transpose(const A* from, int64_t from_stride, int64_t rows, int64_t columns, T* to, int64_t to_stride) {
    constexpr int64_t kBlock = 16;
    for (int64_t row = 0; row < rows; row += kBlock)
        for (int64_t column = 0; column < columns; column += kBlock)
            transpose_block(from + row * from_stride + column, from_stride, std::min(kBlock, rows - row),
                            std::min(kBlock, columns - column), to + column * to_stride + row, to_stride);
}

// The map (B, C, H, W) with its channels last in memory; copied only if they are not so already.
template <class T>
Tensor with_channels_last(const Tensor& map) {
    const int64_t channels = map.size(1), pixels = map.size(2) * map.size(3);
    if (!map.is_contiguous() || channels == 1 || pixels == 1)
        return torch::stable::contiguous(map, MemoryFormat::ChannelsLast);
    constexpr int64_t kPixelsPerTask = 256;
    Tensor out = new_tensor({map.size(0), channels, map.size(2), map.size(3)}, map.scalar_type(), true);
    const int64_t tasks = (pixels + kPixelsPerTask - 1) / kPixelsPerTask;
    parallel_tasks(map.size(0) * tasks, [&](int64_t task) {
        const int64_t image = task / tasks * pixels * channels, first = task % tasks * kPixelsPerTask;
        transpose(data<T>(map) + image + first, pixels, channels, std::min(kPixelsPerTask, pixels - first),
                  mutable_data<T>(out) + image + first * channels, channels);
    });
    return out;
}

}  // namespace detcore::roi_align
