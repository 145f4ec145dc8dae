// Boxes and how much they overlap, the same to the last bit on every device: `match_anchors` compares IoUs for
// equality.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "common/numeric.h"

namespace detcore::matching {

constexpr int8_t kPositive = 1, kNegative = 0, kIgnored = -1;

template <class A>
struct Box {
    A x1, y1, x2, y2, area;
};

// A box that meets nothing.
template <class A>
DETCORE_HD inline Box<A> nowhere() {
    constexpr A infinity = std::numeric_limits<A>::infinity();
    return {infinity, infinity, -infinity, -infinity, A(0)};
}

// Reads (x1, y1, x2, y2); a box with a non-finite coordinate meets nothing.
template <class A>
DETCORE_HD inline Box<A> read_box(const A* from) {
    const Box<A> box{from[0], from[1], from[2], from[3], (from[2] - from[0]) * (from[3] - from[1])};
    // Of numbers that are all finite, 0 times each is 0; NaN otherwise.
    const A zero = A(0) * box.x1 + A(0) * box.y1 + A(0) * box.x2 + A(0) * box.y2;
    return zero == 0 ? box : nowhere<A>();
}

// 0 where the union is empty or not finite.
template <class A>
DETCORE_HD inline A quotient(A intersection, A sum) {
    const A iou = intersection / sum;
    return sum > 0 ? iou : A(0);
}

template <class A>
DETCORE_HD inline A iou(const Box<A>& a, const Box<A>& b) {
    const A width = greater(lesser(a.x2, b.x2) - greater(a.x1, b.x1), A(0));
    const A height = greater(lesser(a.y2, b.y2) - greater(a.y1, b.y1), A(0));
    const A intersection = width * height;
    return quotient(intersection, a.area + b.area - intersection);
}

// What an anchor is whose best IoU is `best`.
template <class A>
DETCORE_HD inline int8_t status_of(A best, A negative, A positive) {
    return best >= positive ? kPositive : best < negative ? kNegative : kIgnored;
}

}  // namespace detcore::matching
