// Rotated boxes (cx, cy, w, h, angle in degrees, counter-clockwise as one sees the image): the area that two share.
//
// All in double, and rounded to float before it is compared with a threshold: so every device finds the same side of
// it, even of boxes made to have just that IoU.
#pragma once

#include <cmath>

#include "common/annotate.h"

namespace detcore::rotated {

struct Box {
    double x, y, w, h, angle;
};

// A box with its angle resolved. N is double; on a CPU also a vector of doubles, for a box in each lane.
template <class N>
struct FrameOf {
    N x, y, w, h, cos, sin;  // w: 0 for a box that has no IoU
};
using Frame = FrameOf<double>;

inline DETCORE_HD bool usable(const Frame& frame) {
    return frame.w > 0;
}

inline DETCORE_HD Frame frame_of(const Box& box) {
    constexpr double kRadians = 0.017453292519943295, kInfinity = HUGE_VAL;
    // Quarter turns are taken off first, so that upright boxes have a sine and a cosine without error.
    const double quarters = std::nearbyint(box.angle / 90), rest = (box.angle - quarters * 90) * kRadians;
    const double c = std::cos(rest), s = std::sin(rest), turn = quarters - 4 * std::floor(quarters / 4);
    const bool swapped = turn == 1 || turn == 3;
    const double cos = (turn == 1 || turn == 2 ? -1 : 1) * (swapped ? s : c);
    const double sin = (turn == 2 || turn == 3 ? -1 : 1) * (swapped ? c : s);
    const bool whole = std::abs(box.x) < kInfinity && std::abs(box.y) < kInfinity && box.w > 0 && box.w < kInfinity &&
                       box.h > 0 && box.h < kInfinity && std::abs(box.angle) < kInfinity;
    return {box.x, box.y, whole ? box.w : 0, box.h, cos, sin};
}

// Half the diagonal: only where the circles around two boxes meet can the boxes.
inline DETCORE_HD double radius(const Frame& frame) {
    return std::hypot(frame.w, frame.h) / 2;
}

template <class N>
inline DETCORE_HD N clamp(N x, N low, N high) {
    return x < low ? low : x > high ? high : x;
}

template <class N>
inline DETCORE_HD N share(N x) {
    return clamp(x, N{}, N{} + 1.0);
}

template <class N>
inline DETCORE_HD N magnitude(N x) {
    return x < N{} ? -x : x;
}

// 1 / whole; where the whole is 0 any share of it will do, what it is a share of is constant.
template <class N>
inline DETCORE_HD N inverse(N whole) {
    return magnitude(whole) < N{} + 1e-200 ? N{} + 1.0 : 1 / whole;
}

// The integral along one edge, from (x, y) over `run` and `rise`, of the field below.
template <class N>
inline DETCORE_HD N below_edge(N x, N y, N run, N rise, N half_w, N half_h) {
    // The part of the edge with |x| <= w/2, as shares of its length.
    const N per_run = inverse(run);
    const N left = share((-half_w - x) * per_run), right = share((half_w - x) * per_run);
    const N begin = run < N{} ? right : left, end = run < N{} ? left : right;
    const N width = clamp(x + run, -half_w, half_w) - clamp(x, -half_w, half_w);
    const N first = y + begin * rise, slope = (end - begin) * rise;
    // The mean of clamp(first + t slope) over t in 0..1: a line with two kinks, where it meets -h/2 and h/2.
    const N per_slope = inverse(slope);
    const N low = share((-half_h - first) * per_slope), high = share((half_h - first) * per_slope);
    const N one = low < high ? low : high, two = low < high ? high : low;
    const N at_begin = clamp(first, -half_h, half_h), at_one = clamp(first + one * slope, -half_h, half_h);
    const N at_two = clamp(first + two * slope, -half_h, half_h), at_end = clamp(first + slope, -half_h, half_h);
    return width * (one * (at_begin + at_one) + (two - one) * (at_one + at_two) + (1 - two) * (at_two + at_end)) / 2;
}

// In b's own frame b is |x| <= w/2, |y| <= h/2. By Green's theorem with the field [|x| <= w/2] clamp(y, -h/2, h/2) dx,
// whose curl is 1 inside b and 0 outside, the area is its integral along the edges of a. Nothing is sorted or clipped,
// and the result depends continuously on the boxes: coinciding edges are no special case.
template <class N>
inline DETCORE_HD N intersection(const FrameOf<N>& a, const FrameOf<N>& b) {
    const N turn_cos = a.cos * b.cos + a.sin * b.sin, turn_sin = a.sin * b.cos - a.cos * b.sin;
    const N dx = a.x - b.x, dy = a.y - b.y;
    const N cx = dx * b.cos - dy * b.sin, cy = dx * b.sin + dy * b.cos;
    const N half_w = b.w / 2, half_h = b.h / 2;
    // Half of a's sides, turned into b's frame; its corners are cx, cy plus or minus each.
    const N wx = a.w / 2 * turn_cos, wy = -(a.w / 2 * turn_sin), hx = a.h / 2 * turn_sin, hy = a.h / 2 * turn_cos;
    const N x[4] = {cx + wx + hx, cx - wx + hx, cx - wx - hx, cx + wx - hx};
    const N y[4] = {cy + wy + hy, cy - wy + hy, cy - wy - hy, cy + wy - hy};
    N area{};
    for (int k = 0; k < 4; ++k)
        area += below_edge<N>(x[k], y[k], x[(k + 1) % 4] - x[k], y[(k + 1) % 4] - y[k], half_w, half_h);
    return magnitude(area);
}

// Of usable boxes. What rounding leaves of boxes that do not meet is 0: less than a billionth.
template <class N>
inline DETCORE_HD N iou(const FrameOf<N>& a, const FrameOf<N>& b) {
    const N shared = intersection(a, b), whole = a.w * a.h + b.w * b.h - shared;
    return shared > 1e-9 * whole ? share(shared / whole) : N{};
}

inline DETCORE_HD bool suppresses(const Frame& kept, const Frame& box, float threshold) {
    return static_cast<float>(iou(kept, box)) > threshold;
}

}  // namespace detcore::rotated
