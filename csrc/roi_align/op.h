// RoIAlign (He et al. 2017) over the levels of a pyramid: which samples a RoI takes, for every device.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace detcore::roi_align {

template <class A>
struct Parameters {
    int out_height, out_width, sampling_ratio;
    bool aligned;
    A canonical_size;
    int canonical_level;  // counted from the first level present
};

// One axis of a RoI, in pixels of its level.
template <class A>
struct Axis {
    A start, bin;
    int samples;  // per bin
};

// FPN's equation 1, as an index into the levels present.
template <class A>
inline int level_of(const A* box, const Parameters<A>& p, int num_levels) {
    A area = (box[2] - box[0]) * (box[3] - box[1]);
    area = area > 0 ? area : A(0);  // NaN too
    A exact = A(p.canonical_level) + std::log2(std::sqrt(area) / p.canonical_size + A(1e-8));
    return static_cast<int>(std::floor(std::min(std::max(exact, A(0)), A(num_levels - 1))));
}

// Coordinates are held to three map lengths outside the map, which bounds the number of samples.
template <class A>
inline Axis<A> axis_of(A low, A high, A scale, int longest_side, int bins, const Parameters<A>& p) {
    const A reach = A(longest_side) / scale;
    low = std::min(std::max(low, -3 * reach), 4 * reach);
    high = std::min(std::max(high, -3 * reach), 4 * reach);
    const A shift = p.aligned ? A(0.5) : A(0);
    const A start = low * scale - shift;
    A length = (high * scale - shift) - start;
    if (!p.aligned) length = std::max(length, A(1));
    const A bin = length / A(bins);
    const int samples = p.sampling_ratio > 0 ? p.sampling_ratio : static_cast<int>(std::ceil(bin));
    return {start, bin, std::max(samples, 0)};
}

}  // namespace detcore::roi_align
