// GIoU (Rezatofighi et al. 2019), DIoU and CIoU (Zheng et al. 2020) losses of one pair of boxes, and their gradients.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/numeric.h"

namespace detcore::losses {

enum class Kind : int64_t { giou, diou, ciou };

template <class A>
DETCORE_HD inline A not_negative(A x) {
    return x < 0 ? A(0) : x;  // NaN stays
}

// What both boxes have of one axis: a from a1 to a2, b from b1 to b2.
template <class A>
struct Axis {
    A a1, a2, b1, b2;

    DETCORE_HD A side_a() const { return not_negative(a2 - a1); }
    DETCORE_HD A side_b() const { return not_negative(b2 - b1); }
    DETCORE_HD A shared() const { return not_negative((a2 < b2 ? a2 : b2) - (a1 > b1 ? a1 : b1)); }
    DETCORE_HD A hull() const { return not_negative((a2 > b2 ? a2 : b2) - (a1 < b1 ? a1 : b1)); }
    DETCORE_HD A offset() const { return (a1 + a2 - b1 - b2) / 2; }
};

template <class A>
struct Pair {
    Axis<A> x, y;
};

// Of the loss with respect to what an Axis gives.
template <class A>
struct Slopes {
    A side_a, side_b, shared, hull, offset;
};

// From what an Axis gives to its coordinates, as torch's autograd does it: a length of 0 has no slope, and where two
// coordinates are equal the slope of their extreme goes to both in halves.
template <class A>
DETCORE_HD inline Axis<A> to_coordinates(const Axis<A>& at, const Slopes<A>& slopes) {
    const A high = at.a2 > at.b2 ? A(1) : at.a2 < at.b2 ? A(0) : A(0.5);  // a's part in the higher end
    const A low = at.a1 > at.b1 ? A(1) : at.a1 < at.b1 ? A(0) : A(0.5);
    const A shared_length = (at.a2 < at.b2 ? at.a2 : at.b2) - (at.a1 > at.b1 ? at.a1 : at.b1);
    const A hull_length = (at.a2 > at.b2 ? at.a2 : at.b2) - (at.a1 < at.b1 ? at.a1 : at.b1);
    const A side_a = at.a2 > at.a1 ? slopes.side_a : A(0), side_b = at.b2 > at.b1 ? slopes.side_b : A(0);
    const A shared = shared_length > 0 ? slopes.shared : A(0), hull = hull_length > 0 ? slopes.hull : A(0);
    const A half = slopes.offset / 2;
    return {half - side_a - shared * low - hull * (1 - low), half + side_a + shared * (1 - high) + hull * high,
            -half - side_b - shared * (1 - low) - hull * low, -half + side_b + shared * high + hull * (1 - high)};
}

DETCORE_HD inline double arc_tangent(double x) {
    return std::atan(x);
}

// By a polynomial in x^2 between 0 and 1 (Chebyshev interpolation of atan(x) / x, relative error 1.3e-7), which the
// compiler vectorises.
DETCORE_HD inline float arc_tangent(float x) {
    const float size = x < 0 ? -x : x;
    const float r = size > 1 ? 1 / size : size, z = r * r;
    float p = 2.766283480e-3f;
    p = multiply_add(p, z, -1.573124904e-2f);
    p = multiply_add(p, z, 4.213762345e-2f);
    p = multiply_add(p, z, -7.456854814e-2f);
    p = multiply_add(p, z, 1.061837063e-1f);
    p = multiply_add(p, z, -1.419779779e-1f);
    p = multiply_add(p, z, 1.999187203e-1f);
    p = multiply_add(p, z, -3.333303671e-1f);
    p = multiply_add(p, z, 9.999999818e-1f) * r;
    p = size > 1 ? 1.57079633f - p : p;
    return x < 0 ? -p : p;
}

template <class A>
DETCORE_HD inline A at_least(A x, A least) {
    return x < least ? least : x;
}

// The term of CIoU for different aspect ratios: weight * factor * angle^2, the angle between the boxes' diagonals.
template <class A>
struct Aspect {
    static constexpr A factor = A(0.40528473456935109);  // 4 / pi^2
    A width_a, height_a, width_b, height_b, angle, weight;

    DETCORE_HD Aspect(const Pair<A>& pair, A iou, A eps)
        : width_a(at_least(pair.x.side_a(), eps)),
          height_a(at_least(pair.y.side_a(), eps)),
          width_b(at_least(pair.x.side_b(), eps)),
          height_b(at_least(pair.y.side_b(), eps)),
          // atan(u) - atan(v) = atan((u - v) / (1 + u v)) for u, v > 0.
          angle(arc_tangent((width_b * height_a - width_a * height_b) / (height_a * height_b + width_a * width_b))),
          weight(difference() / (1 - iou + difference() + eps)) {}

    DETCORE_HD A difference() const { return factor * angle * angle; }
};

template <class A>
struct Areas {
    A shared, united, inverse, iou;

    DETCORE_HD Areas(const Pair<A>& pair, A eps)
        : shared(pair.x.shared() * pair.y.shared()),
          united(pair.x.side_a() * pair.y.side_a() + pair.x.side_b() * pair.y.side_b() - shared),
          inverse(1 / (united + eps)),
          iou(shared * inverse) {}
};

template <class A>
DETCORE_HD inline A square(A x) {
    return x * x;
}

template <Kind kind, class A>
DETCORE_HD inline A box_loss(const Pair<A>& pair, A eps) {
    const Areas<A> areas(pair, eps);
    if constexpr (kind == Kind::giou) {
        const A hull = pair.x.hull() * pair.y.hull();
        return 1 - areas.iou + (hull - areas.united) / (hull + eps);
    }
    const A distance = square(pair.x.offset()) + square(pair.y.offset());
    const A loss = 1 - areas.iou + distance / (square(pair.x.hull()) + square(pair.y.hull()) + eps);
    if constexpr (kind == Kind::diou) return loss;
    const Aspect<A> aspect(pair, areas.iou, eps);
    return loss + aspect.weight * aspect.difference();
}

// What CIoU's weighted angle adds to the slopes of the sides.
template <class A>
DETCORE_HD inline void add_aspect(const Aspect<A>& aspect, const Pair<A>& pair, A eps, A grad, Slopes<A>& x,
                                  Slopes<A>& y) {
    const A turn = grad * aspect.weight * (2 * Aspect<A>::factor) * aspect.angle;
    const A a = -turn / (square(aspect.width_a) + square(aspect.height_a));
    const A b = turn / (square(aspect.width_b) + square(aspect.height_b));
    x.side_a += pair.x.side_a() > eps ? a * aspect.height_a : A(0);
    y.side_a -= pair.y.side_a() > eps ? a * aspect.width_a : A(0);
    x.side_b += pair.x.side_b() > eps ? b * aspect.height_b : A(0);
    y.side_b -= pair.y.side_b() > eps ? b * aspect.width_b : A(0);
}

// grad times the derivative of `box_loss` with respect to every coordinate.
template <Kind kind, class A>
DETCORE_HD inline Pair<A> box_loss_gradient(const Pair<A>& pair, A eps, A grad) {
    const Areas<A> areas(pair, eps);
    A united = grad * areas.iou * areas.inverse;
    Slopes<A> x{}, y{};
    if constexpr (kind == Kind::giou) {
        const A inverse = 1 / (pair.x.hull() * pair.y.hull() + eps);
        united -= grad * inverse;
        const A hull = grad * ((areas.united + eps) * inverse) * inverse;
        x.hull = hull * pair.y.hull();
        y.hull = hull * pair.x.hull();
    } else {
        const A inverse = 1 / (square(pair.x.hull()) + square(pair.y.hull()) + eps);
        const A ratio = (square(pair.x.offset()) + square(pair.y.offset())) * inverse;
        const A scale = 2 * grad * inverse;
        x.offset = scale * pair.x.offset();
        y.offset = scale * pair.y.offset();
        x.hull = -scale * ratio * pair.x.hull();
        y.hull = -scale * ratio * pair.y.hull();
    }
    const A shared = -grad * areas.inverse - united;  // the union is without it
    x.shared = shared * pair.y.shared();
    y.shared = shared * pair.x.shared();
    x.side_a = united * pair.y.side_a();
    y.side_a = united * pair.x.side_a();
    x.side_b = united * pair.y.side_b();
    y.side_b = united * pair.x.side_b();
    if constexpr (kind == Kind::ciou) add_aspect(Aspect<A>(pair, areas.iou, eps), pair, eps, grad, x, y);
    return {to_coordinates(pair.x, x), to_coordinates(pair.y, y)};
}

}  // namespace detcore::losses
