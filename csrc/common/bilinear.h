// Bilinear interpolation between the centres of four pixels, with zeros around the map.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/annotate.h"

namespace detcore {

// Where a place reads. Of the corners above left, above right, below left and below right, those outside of the map
// have weight 0 and are read from the pixel beside them, so that no corner needs a branch.
template <class A>
struct BilinearTap {
    int64_t pixel;  // of the first corner in the map; -1: reads nothing
    int inside;     // bits: whether the row above, the row below, the column left, the column right lie in the map
    A y, x;         // from the row above, from the column left, in 0..1

    DETCORE_HD int64_t right() const { return inside >> 2 == 3 ? 1 : 0; }
    DETCORE_HD int64_t below(int64_t width) const { return (inside & 3) == 3 ? width : 0; }

    DETCORE_HD A above_share() const { return inside & 1 ? 1 - y : A(0); }
    DETCORE_HD A below_share() const { return inside & 2 ? y : A(0); }
    DETCORE_HD A left_share() const { return inside & 4 ? 1 - x : A(0); }
    DETCORE_HD A right_share() const { return inside & 8 ? x : A(0); }

    // The corners' weights, all times `factor`.
    DETCORE_HD void weights(A factor, A (&out)[4]) const {
        const A above = above_share() * factor, under = below_share() * factor;
        out[0] = above * left_share();
        out[1] = above * right_share();
        out[2] = under * left_share();
        out[3] = under * right_share();
    }

    // The interpolated value of the corners' values, and its derivatives.
    DETCORE_HD void derive(const A (&corners)[4], A& value, A& by_y, A& by_x) const {
        const A above = left_share() * corners[0] + right_share() * corners[1];
        const A under = left_share() * corners[2] + right_share() * corners[3];
        const A left = above_share() * corners[0] + below_share() * corners[2];
        const A right = above_share() * corners[1] + below_share() * corners[3];
        value = above_share() * above + below_share() * under;
        by_y = (inside & 2 ? under : A(0)) - (inside & 1 ? above : A(0));
        by_x = (inside & 8 ? right : A(0)) - (inside & 4 ? left : A(0));
    }
};

// The tap of a place in pixels, where the first pixel's centre is at 0, on a map whose pixels count from `first_pixel`.
// A place one pixel or more outside, and one that is no number, reads nothing.
template <class A>
inline DETCORE_HD BilinearTap<A> bilinear_tap(A y, A x, int height, int width, int64_t first_pixel) {
    const bool reads = y > -1 && y < A(height) && x > -1 && x < A(width) && height > 0 && width > 0;
    if (!reads) return {-1, 0, A(0), A(0)};
    const A above = std::floor(y), left = std::floor(x);
    // Sizes beyond the number type's integers are rounded in the comparison.
    const int row = above < A(height - 1) ? static_cast<int>(above) : height - 1;
    const int column = left < A(width - 1) ? static_cast<int>(left) : width - 1;
    const int inside = (row >= 0) | (row + 1 < height) << 1 | (column >= 0) << 2 | (column + 1 < width) << 3;
    const int64_t first = static_cast<int64_t>(row < 0 ? 0 : row) * width + (column < 0 ? 0 : column);
    return {first_pixel + first, inside, y - above, x - left};
}

}  // namespace detcore
