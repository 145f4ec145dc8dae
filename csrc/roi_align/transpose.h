// Channels last to channels first.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "common/numeric.h"

namespace detcore::roi_align {

// to[column * stride + row] = from[row * columns + column], in squares of a cache line's width: so a line that is read
// or written for one number is still at hand for its others.
template <class T, class A>
void transpose(const A* from, int64_t rows, int64_t columns, T* to, int64_t stride) {
    constexpr int64_t kBlock = 16;
    for (int64_t first_row = 0; first_row < rows; first_row += kBlock)
        for (int64_t first = 0; first < columns; first += kBlock) {
            const int64_t end_row = std::min(first_row + kBlock, rows), end = std::min(first + kBlock, columns);
            for (int64_t column = first; column < end; ++column)
                for (int64_t row = first_row; row < end_row; ++row) {
                    if constexpr (std::is_same_v<T, A>) {
                        to[column * stride + row] = from[row * columns + column];
                    } else {
                        to[column * stride + row] = narrow<T>(from[row * columns + column]);
                    }
                }
        }
}

}  // namespace detcore::roi_align
