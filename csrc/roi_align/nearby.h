// Which samples of a RoI can touch a rectangle of pixels.
#pragma once

#include "roi_align/op.h"

namespace detcore::roi_align {

// Pixels from the first up to, but without, the last.
struct Rectangle {
    int top, left, bottom, right;
};

// Samples of an axis, counted through all its bins, or pairs of such.
struct Range {
    int first, end;

    DETCORE_HD int count() const { return std::max(end - first, 0); }
};

// The samples of an axis that lie between two places, and a few more.
template <class A>
inline DETCORE_HD Range samples_between(const Axis<A>& axis, int bins, A low, A high) {
    const int total = bins * axis.samples;
    const A step = axis.bin / A(axis.samples);
    const A one = (low - axis.start) / step - A(0.5), other = (high - axis.start) / step - A(0.5);
    const A first = std::floor(one < other ? one : other), end = std::floor(one < other ? other : one) + 2;
    // A NaN (a step of 0, and samples on the border) compares false and takes all.
    return {first > 0 ? (first < A(total) ? static_cast<int>(first) : total) : 0,
            end < A(total) ? (end > 0 ? static_cast<int>(end) : 0) : total};
}

// The rows and the columns of samples outside of which none touches the rectangle. Those inside may miss it.
template <class A>
inline DETCORE_HD void samples_near(const Grid<A>& grid, int out_height, int out_width, const Rectangle& pixels,
                                    Range& rows, Range& columns) {
    // More than the roundings of all places of the grid.
    const A magnitude = std::abs(grid.centre_y) + std::abs(grid.centre_x) + std::abs(grid.y.start) +
                        std::abs(grid.x.start) + std::abs(grid.y.bin) * A(out_height) +
                        std::abs(grid.x.bin) * A(out_width) + A(pixels.bottom) + A(pixels.right);
    const A margin = A(0.51) + magnitude * A(0x1p-19);
    // A sample touches the pixels less than one away from it.
    const A half_y = A(pixels.bottom - pixels.top) / 2 + margin, half_x = A(pixels.right - pixels.left) / 2 + margin;
    const A y = A(pixels.top + pixels.bottom - 1) / 2 - grid.centre_y;
    const A x = A(pixels.left + pixels.right - 1) / 2 - grid.centre_x;
    const A v = y * grid.cos + x * grid.sin, u = x * grid.cos - y * grid.sin;
    const A reach_v = half_y * std::abs(grid.cos) + half_x * std::abs(grid.sin);
    const A reach_u = half_x * std::abs(grid.cos) + half_y * std::abs(grid.sin);
    rows = samples_between(grid.y, out_height, v - reach_v, v + reach_v);
    columns = samples_between(grid.x, out_width, u - reach_u, u + reach_u);
}

}  // namespace detcore::roi_align
