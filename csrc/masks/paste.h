// Masks inside boxes to pixels of the image: bilinear samples at the pixels' centres, as grid_sample takes them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "common/annotate.h"

namespace detcore::masks {

// The two mask pixels that an image pixel's centre lies between, and the share of the second; the first may be from -2
// to the mask's size.
template <class A>
struct Between {
    int first;
    A share;
};

template <class A, class Index>
inline DETCORE_HD Between<A> between(A low, A high, Index i, int64_t size) {
    const A place =
        ((static_cast<A>(i) + A(0.5) - low) / (high - low) * 2 - 1 + 1) * (static_cast<A>(size) / 2) - A(0.5);
    const A below = std::floor(place);
    return {static_cast<int>(std::clamp(below, A(-2), static_cast<A>(size))), place - below};
}

// A sample is the mix of the two rows' values, which are each the mix of two neighbours in the row. The order of the
// operations is part of the result: a pixel near the threshold must fall on the same side everywhere.
template <class A>
inline DETCORE_HD A mixed(A share, A first, A second) {
    return first * (1 - share) + second * share;
}

struct Span {
    int64_t begin, end;
};

// The image pixels of one axis that a mask can reach: it goes half a mask pixel beyond its box.
template <class A>
inline DETCORE_HD Span reach(A low, A high, int64_t size, int64_t limit) {
    const A margin = (high - low) / static_cast<A>(2 * size) + 1;
    // The limit as a float may be above it.
    const A most = static_cast<A>(limit);
    return {std::min(limit, static_cast<int64_t>(std::clamp(std::floor(low - margin), A(0), most))),
            std::min(limit, static_cast<int64_t>(std::clamp(std::ceil(high + margin), A(0), most)))};
}

struct Window {
    Span x, y;

    DETCORE_HD bool empty() const { return x.begin >= x.end || y.begin >= y.end; }
};

// Where a mask of size x size pixels in a box can be; empty for a box without area or with a non-finite coordinate.
template <class A>
inline DETCORE_HD Window window_of(const A* box, int64_t size, int64_t height, int64_t width) {
    for (int k = 0; k < 4; ++k)
        if (!std::isfinite(box[k])) return {};
    if (!(box[2] > box[0] && box[3] > box[1]) || size == 0) return {};
    return {reach(box[0], box[2], size, width), reach(box[1], box[3], size, height)};
}

}  // namespace detcore::masks
