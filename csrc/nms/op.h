// When one axis-aligned box suppresses another. A box with a non-finite coordinate has the area NaN and so no IoU.
#pragma once

#include <cmath>
#include <limits>

#include "common/numeric.h"

namespace detcore::nms {

template <class A>
inline DETCORE_HD A area(A x1, A y1, A x2, A y2) {
    constexpr A kLargest = std::numeric_limits<A>::max();
    const bool finite =
        std::abs(x1) <= kLargest && std::abs(y1) <= kLargest && std::abs(x2) <= kLargest && std::abs(y2) <= kLargest;
    return finite ? (x2 - x1) * (y2 - y1) : std::numeric_limits<A>::quiet_NaN();
}

template <class A>
struct Box {
    A x1, y1, x2, y2, area;
};

template <class B>
inline DETCORE_HD bool meet(const B& a, const B& b) {
    // All four in any case: && would be a branch after each, at which the lanes of a warp part.
    return (a.x1 < b.x2) & (b.x1 < a.x2) & (a.y1 < b.y2) & (b.y1 < a.y2);
}

template <class A>
struct Overlap {
    A shared, whole;  // areas of the intersection and of the union
};

template <class A>
inline DETCORE_HD Overlap<A> overlap(const Box<A>& a, const Box<A>& b) {
    const A width = greater(lesser(a.x2, b.x2) - greater(a.x1, b.x1), A(0));
    const A height = greater(lesser(a.y2, b.y2) - greater(a.y1, b.y1), A(0));
    const A shared = width * height;
    return {shared, a.area + b.area - shared};
}

template <class A>
class Threshold {
  public:
    explicit Threshold(double threshold) : limit_(static_cast<A>(threshold)) {
        // The largest number of the type that is not above the threshold: comparing with one is comparing with both.
        constexpr A kInfinity = std::numeric_limits<A>::infinity();
        if (static_cast<double>(limit_) > threshold) limit_ = std::nextafter(limit_, -kInfinity);
        guard_ = limit_ > 0 ? limit_ : limit_ == 0 ? std::numeric_limits<A>::denorm_min() : -kInfinity;
    }

    // Spares most pairs the division: false only where the IoU is not above. The rounded quotient can be above only if
    // the intersection is not below the rounded product, since rounding keeps the order of numbers.
    DETCORE_HD bool may_be_below(const Overlap<A>& pair) const { return pair.shared >= guard_ * pair.whole; }

    DETCORE_HD bool is_negative() const { return limit_ < 0; }

    DETCORE_HD bool is_below(const Overlap<A>& pair) const { return pair.shared / pair.whole > limit_; }

  private:
    A limit_, guard_;
};

}  // namespace detcore::nms
