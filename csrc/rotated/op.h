// Rotated boxes (cx, cy, w, h, angle in degrees, counter-clockwise as one sees the image): the area that two share.
//
// All in double, so that every device finds the same side of a threshold.
#pragma once

#include <algorithm>
#include <cmath>

namespace detcore::rotated {

struct Box {
    double x, y, w, h, angle;
};

inline bool usable(const Box& box) {
    return std::isfinite(box.x) && std::isfinite(box.y) && std::isfinite(box.w) && std::isfinite(box.h) &&
           std::isfinite(box.angle) && box.w > 0 && box.h > 0;
}

// part / whole in 0..1; where the whole is 0 any share will do, what it is a share of is constant.
inline double share(double part, double whole) {
    return std::clamp(part / (whole == 0 ? 1 : whole), 0.0, 1.0);
}

// In b's own frame b is |x| <= w/2, |y| <= h/2. By Green's theorem with the field [|x| <= w/2] clamp(y, -h/2, h/2) dx,
// whose curl is 1 inside b and 0 outside, the area is its integral along the edges of a. Nothing is sorted or clipped,
// and the result depends continuously on the boxes: coinciding edges are no special case.
inline double intersection(const Box& a, const Box& b) {
    constexpr double kRadians = 0.017453292519943295;
    const double own_cos = std::cos(b.angle * kRadians), own_sin = std::sin(b.angle * kRadians);
    const double turn_cos = std::cos((a.angle - b.angle) * kRadians),
                 turn_sin = std::sin((a.angle - b.angle) * kRadians);
    const double dx = a.x - b.x, dy = a.y - b.y;
    const double cx = dx * own_cos - dy * own_sin, cy = dx * own_sin + dy * own_cos;
    const double half_w = b.w / 2, half_h = b.h / 2;
    const double u[4] = {a.w / 2, -a.w / 2, -a.w / 2, a.w / 2}, v[4] = {a.h / 2, a.h / 2, -a.h / 2, -a.h / 2};
    double x[5], y[5];
    for (int k = 0; k < 4; ++k) {
        x[k] = cx + u[k] * turn_cos + v[k] * turn_sin;
        y[k] = cy - u[k] * turn_sin + v[k] * turn_cos;
    }
    x[4] = x[0], y[4] = y[0];
    double area = 0;
    for (int k = 0; k < 4; ++k) {
        const double run = x[k + 1] - x[k], rise = y[k + 1] - y[k];
        // The part of the edge with |x| <= w/2, as shares of its length.
        double begin = share(-half_w - x[k], run), end = share(half_w - x[k], run);
        if (run < 0) std::swap(begin, end);
        const double width = std::clamp(x[k] + run, -half_w, half_w) - std::clamp(x[k], -half_w, half_w);
        const double first = y[k] + begin * rise, slope = (end - begin) * rise;
        // The mean of clamp(first + t slope) over t in 0..1: a line with two kinks, where it meets -h/2 and h/2.
        const double low = share(-half_h - first, slope), high = share(half_h - first, slope);
        const double knots[4] = {0, std::min(low, high), std::max(low, high), 1};
        double mean = 0, before = std::clamp(first, -half_h, half_h);
        for (int t = 1; t < 4; ++t) {
            const double height = std::clamp(first + knots[t] * slope, -half_h, half_h);
            mean += (knots[t] - knots[t - 1]) * (before + height) / 2;
            before = height;
        }
        area += width * mean;
    }
    return std::abs(area);
}

// Of usable boxes.
inline double iou(const Box& a, const Box& b) {
    const double shared = intersection(a, b), whole = a.w * a.h + b.w * b.h - shared;
    return std::clamp(shared / whole, 0.0, 1.0);
}

}  // namespace detcore::rotated
