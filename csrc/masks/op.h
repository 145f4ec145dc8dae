// Outlines to pixels, as pycocotools draws them: vertices are rounded to a fifth of a pixel, edges are walked on that
// grid, and a pixel changes sides at every step of the walk that crosses its column's middle line above it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>

#include "common/annotate.h"

namespace detcore::masks {

constexpr int kFine = 5;  // grid lines a pixel
// Mask R-CNN's guard against a division by zero, in image pixels.
constexpr double kSmallestSide = 0.1;
// In mask pixels; vertices beyond are moved there.
constexpr double kFarthestVertex = 1e6;

// Whether anything can be drawn in a box (x1, y1, x2, y2).
inline DETCORE_HD bool drawable(const double* box) {
    return std::isfinite(box[0]) && std::isfinite(box[1]) && std::isfinite(box[2]) && std::isfinite(box[3]) &&
           box[2] > box[0] && box[3] > box[1];
}

// Whether a ring encloses anything and lies inside the vertices of its image.
inline DETCORE_HD bool usable(int64_t start, int64_t count, int64_t num_vertices) {
    return count >= 3 && start >= 0 && count <= num_vertices && start <= num_vertices - count;
}

// Mask pixels per image pixel along one side of a box.
inline DETCORE_HD double scale_of(double low, double high, int size) {
    const double side = high - low;
    return size / (side > kSmallestSide ? side : kSmallestSide);
}

struct FinePoint {
    int x, y;
};

// Cuts off towards zero, also below it.
inline DETCORE_HD int rounded(double value) {
    return static_cast<int>(value + 0.5);
}

inline DETCORE_HD double near(double value) {
    if (!(value >= -kFarthestVertex)) return -kFarthestVertex;  // NaN as well
    return value <= kFarthestVertex ? value : kFarthestVertex;
}

inline DETCORE_HD FinePoint fine_point(double x, double y) {
    return {rounded(kFine * near(x)), rounded(kFine * near(y))};
}

// Calls toggle(column, row) for every column of the mask whose middle line the edge crosses: the pixels from that row
// on change sides; row may be `size`, which is none of the column. A crossing is a step between grid columns 5 c + 2
// and 5 c + 3. The walk goes along the longer side of the edge, upwards; its direction along the outline does not
// matter.
template <class F>
inline DETCORE_HD void cross_columns(FinePoint a, FinePoint b, int size, const F& toggle) {
    const int low = std::min(a.x, b.x), high = std::max(a.x, b.x);
    int column = std::max(0, (low + kFine - 3) / kFine);
    const int end = high < 3 ? 0 : std::min(size, (high - 3) / kFine + 1);
    if (column >= end) return;
    const int run = high - low, rise = b.y > a.y ? b.y - a.y : a.y - b.y;
    const bool flat = run >= rise;
    if (flat ? a.x > b.x : a.y > b.y) std::swap(a, b);
    const double slope = flat ? static_cast<double>(b.y - a.y) / run : static_cast<double>(b.x - a.x) / rise;
    for (; column < end; ++column) {
        const int left = kFine * column + 2;
        int y;
        if (flat) {
            const int step = left - a.x;
            y = std::min(rounded(a.y + slope * step), rounded(a.y + slope * (step + 1)));
        } else {
            // The step after which the walk's x, which only rises or only falls, lies on the other side.
            const bool rises = b.x > a.x;
            const auto beyond = [&](int step) {
                const int x = rounded(a.x + slope * step);
                return rises ? x > left : x <= left;
            };
            int step = std::clamp(static_cast<int>((left + 0.5 - a.x) / slope), 0, rise);
            while (step > 0 && beyond(step)) --step;
            while (step < rise && !beyond(step + 1)) ++step;
            y = a.y + step;
        }
        // The first row whose middle is not above y + 1/2.
        toggle(column, y <= 2 ? 0 : std::min((y + 2) / kFine, size));
    }
}

}  // namespace detcore::masks
