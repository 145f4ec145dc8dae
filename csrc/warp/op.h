// From raw pixels to the network's input: which raw pixels an output pixel averages, and with which weights.
//
// Pixel (i, j) covers [j, j + 1) x [i, i + 1) in (x, y). A geometry maps raw (x, y) to output (x, y).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "common/annotate.h"

namespace detcore::warp {

// An edge so close to its pixel border, in pixels, is taken to lie on it: float32 matrices round.
constexpr double kWhole = 1e-3;
constexpr int kMinSupersampling = 4, kMaxSupersampling = 16;

// Weights are whole multiples of 2^-14: they fit 16 bits, and with bytes they give exact sums in int32 and in float. So
// both passes round as one does, and where PIL (22 bits) meets the half between two grey levels, its side is mostly
// ours.
constexpr int kBits = 14, kOne = 1 << kBits;

struct Size {
    int64_t height, width;
};

// One axis of a geometry that only scales, shifts and mirrors: output = scale * raw + shift.
struct Axis {
    double scale, shift;
    int64_t raw;
    int64_t begin, end;  // the output pixels, within the content, whose centres the raw image covers
};

inline Axis axis_of(double scale, double shift, int64_t raw, int64_t content) {
    const double edge = scale * static_cast<double>(raw) + shift;
    const double low = std::min(shift, edge), high = std::max(shift, edge);
    const double limit = static_cast<double>(content);
    const double begin = std::min(std::max(0.0, std::ceil(low - 0.5 - kWhole)), limit);
    const double end = std::max(begin, std::min(limit, std::ceil(high - 0.5 + kWhole)));
    // If edge falls onto edge, the scale is a ratio of whole numbers, as PIL's is.
    const double whole_low = std::round(low), whole_high = std::round(high);
    if (std::abs(low - whole_low) < kWhole && std::abs(high - whole_high) < kWhole && whole_low < whole_high) {
        scale = std::copysign((whole_high - whole_low) / static_cast<double>(raw), scale);
        shift = scale > 0 ? whole_low : whole_high;
    }
    return {scale, shift, raw, static_cast<int64_t>(begin), static_cast<int64_t>(end)};
}

// Whether PIL, of the two passes that it rounds to 8 bits each, makes the vertical one first (since Pillow 13).
inline bool rows_first(const Axis& x, const Axis& y) {
    const int64_t out_height = y.end - y.begin, out_width = x.end - x.begin;
    return out_height < y.raw && 2 * (x.raw - out_width) < y.raw - out_height;
}

// The filter is a triangle, as wide as the larger of the two kinds of pixels; this is half its width, in raw pixels.
inline DETCORE_HD double reach_of(const Axis& axis) {
    return std::max(1.0, 1 / std::abs(axis.scale));
}

// As many raw pixels as an output pixel averages at most.
inline int most_taps(const Axis& axis) {
    return static_cast<int>(std::min(std::ceil(2 * reach_of(axis)), static_cast<double>(axis.raw)));
}

// The raw pixels that one output pixel averages.
struct Taps {
    int64_t first;
    int count;
};

// Their weights, in units of 1 / kOne, which sum to kOne: `most` numbers, of which those beyond the count are 0.
inline DETCORE_HD Taps weigh(const Axis& axis, int64_t pixel, int most, int16_t* weights) {
    const double reach = reach_of(axis), limit = static_cast<double>(axis.raw - 1);
    const double centre = (static_cast<double>(pixel) + 0.5 - axis.shift) / axis.scale;
    const double low = std::min(std::max(0.0, std::ceil(centre - reach - 0.5 + 1e-9)), limit);
    // std::max is NaN's way to 0: the scale may be anything but 0.
    const auto share = [&](int tap) {
        return std::max(0.0, 1 - std::abs(low + static_cast<double>(tap) + 0.5 - centre) / reach);
    };
    int count = 0;
    double sum = 0;
    for (; count < most && low + static_cast<double>(count) <= limit; ++count) {
        const double own = share(count);
        if (own <= 0 && count > 0) break;
        sum += own;
    }
    int rest = kOne, heaviest = 0;
    for (int tap = 0; tap < most; ++tap) {
        weights[tap] = 0;
        // A sum of 0 is a centre on the very edge.
        if (tap < count && sum > 0) weights[tap] = static_cast<int16_t>(std::round(share(tap) / sum * kOne));
        rest -= weights[tap];
        if (weights[tap] > weights[heaviest]) heaviest = tap;
    }
    weights[heaviest] = static_cast<int16_t>(weights[heaviest] + rest);  // a flat area stays flat
    return {static_cast<int64_t>(low), count};
}

// The mean of count x count bilinear samples a pixel, of which as many an axis as raw pixels fall on it, within limits.
inline int supersampling(const double inverse[6]) {
    const double a = inverse[0], b = inverse[1], c = inverse[3], d = inverse[4];
    const double sum = a * a + b * b + c * c + d * d, det = a * d - b * c;
    const double norm = std::sqrt((sum + std::sqrt(std::max(0.0, sum * sum - 4 * det * det))) / 2);
    return static_cast<int>(std::min(std::max(double{kMinSupersampling}, std::ceil(norm)), double{kMaxSupersampling}));
}

// What is done with an image.
struct Plan {
    enum class Kind { kNothing, kResize, kSupersample } kind;
    Axis x, y;          // of a resize; else the content
    double inverse[6];  // output -> raw, of what is supersampled
};

// matrix: the first two rows of a geometry, which is invertible if there are pixels and content.
inline Plan plan_of(Size raw, const double* matrix, Size content) {
    Plan plan{Plan::Kind::kNothing, {1, 0, 0, 0, content.width}, {1, 0, 0, 0, content.height}, {}};
    if (raw.height == 0 || raw.width == 0 || content.height == 0 || content.width == 0) return plan;
    const double a = matrix[0], b = matrix[1], c = matrix[3], d = matrix[4];
    if (std::abs(b) * static_cast<double>(raw.height) < kWhole &&
        std::abs(c) * static_cast<double>(raw.width) < kWhole) {
        plan.x = axis_of(a, matrix[2], raw.width, content.width);
        plan.y = axis_of(d, matrix[5], raw.height, content.height);
        if (plan.x.begin < plan.x.end && plan.y.begin < plan.y.end) plan.kind = Plan::Kind::kResize;
        return plan;
    }
    plan.kind = Plan::Kind::kSupersample;
    const double det = a * d - b * c;
    const double inverse[6] = {d / det,  -b / det, (b * matrix[5] - d * matrix[2]) / det,
                               -c / det, a / det,  (c * matrix[2] - a * matrix[5]) / det};
    std::copy_n(inverse, 6, plan.inverse);
    return plan;
}

}  // namespace detcore::warp
