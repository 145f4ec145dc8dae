// From raw pixels to the network's input: which raw pixels an output pixel averages.
//
// Pixel (i, j) covers [j, j + 1) x [i, i + 1) in (x, y). A geometry maps raw (x, y) to output (x, y).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace detcore::warp {

// An edge so close to its pixel border, in pixels, is taken to lie on it: float32 matrices round.
constexpr double kWhole = 1e-3;
constexpr int kMinSupersampling = 4, kMaxSupersampling = 16;

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

// The mean of count x count bilinear samples a pixel, of which as many an axis as raw pixels fall on it, within limits.
inline int supersampling(const double inverse[6]) {
    const double a = inverse[0], b = inverse[1], c = inverse[3], d = inverse[4];
    const double sum = a * a + b * b + c * c + d * d, det = a * d - b * c;
    const double norm = std::sqrt((sum + std::sqrt(std::max(0.0, sum * sum - 4 * det * det))) / 2);
    return static_cast<int>(
        std::clamp(std::ceil(norm), static_cast<double>(kMinSupersampling), static_cast<double>(kMaxSupersampling)));
}

}  // namespace detcore::warp
