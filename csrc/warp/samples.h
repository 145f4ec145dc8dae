// The bilinear samples whose mean is a pixel, where a geometry is no plain resize.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "common/annotate.h"
#include "warp/op.h"

namespace detcore::warp {

// A place, or a distance, in raw pixels.
struct Place {
    double u, v;
};

// From a pixel's centre to sample `i` of count x count.
inline DETCORE_HD Place offset_of(const double inverse[6], int count, int i) {
    const double dx = (i % count + 0.5) / count - 0.5, dy = (i / count + 0.5) / count - 0.5;
    return {inverse[0] * dx + inverse[1] * dy, inverse[3] * dx + inverse[4] * dy};
}

// How far samples lie from the centre at most.
inline DETCORE_HD Place reach_of(const double inverse[6], int count) {
    const double most = 0.5 - 0.5 / count;
    return {(std::abs(inverse[0]) + std::abs(inverse[1])) * most, (std::abs(inverse[3]) + std::abs(inverse[4])) * most};
}

// Where the centre of an output pixel lies.
inline DETCORE_HD Place centre_of(const double inverse[6], int64_t line, int64_t pixel) {
    const double x = static_cast<double>(pixel) + 0.5, y = static_cast<double>(line) + 0.5;
    return {inverse[0] * x + inverse[1] * y + inverse[2], inverse[3] * x + inverse[4] * y + inverse[5]};
}

// Whether a sample may lie inside; never where the geometry has overflown.
inline DETCORE_HD bool touches(Place centre, Place reach, Size raw) {
    return centre.u >= -reach.u && centre.v >= -reach.v && centre.u <= static_cast<double>(raw.width) + reach.u &&
           centre.v <= static_cast<double>(raw.height) + reach.v;
}

// Each sample on its own: it interpolates between the pixel centres around it, the image's border being repeated, and
// counts if it lies inside. levels: 3 numbers, the rounded mean; returns the share of samples inside.
inline DETCORE_HD float mean_of_samples(const uint8_t* image, Size raw, Place centre, const Place* offsets, int samples,
                                        float* levels) {
    float sum[3] = {0, 0, 0};
    int inside = 0;
    const auto width = static_cast<double>(raw.width), height = static_cast<double>(raw.height);
    for (int i = 0; i < samples; ++i) {
        const double u = centre.u + offsets[i].u, v = centre.v + offsets[i].v;
        if (!(u >= 0 && u <= width && v >= 0 && v <= height)) continue;
        ++inside;
        const double pu = std::min(std::max(0.0, u - 0.5), width - 1),
                     pv = std::min(std::max(0.0, v - 0.5), height - 1);
        const auto column = static_cast<int64_t>(pu), row = static_cast<int64_t>(pv);
        const auto fu = static_cast<float>(pu - static_cast<double>(column));
        const auto fv = static_cast<float>(pv - static_cast<double>(row));
        const uint8_t* top = image + (row * raw.width + column) * 3;
        const int64_t right = column + 1 < raw.width ? 3 : 0, down = row + 1 < raw.height ? 3 * raw.width : 0;
        for (int c = 0; c < 3; ++c) {
            const float upper = static_cast<float>(top[c]) * (1 - fu) + static_cast<float>(top[right + c]) * fu;
            const float lower =
                static_cast<float>(top[down + c]) * (1 - fu) + static_cast<float>(top[down + right + c]) * fu;
            sum[c] += upper * (1 - fv) + lower * fv;
        }
    }
    for (int c = 0; c < 3; ++c) levels[c] = inside ? std::floor(sum[c] / static_cast<float>(inside) + 0.5f) : 0.0f;
    return static_cast<float>(inside) / static_cast<float>(samples);
}

}  // namespace detcore::warp
