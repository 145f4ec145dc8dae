// RoIAlign (He et al. 2017), upright over the levels of a pyramid or turned: which samples a RoI takes, for every
// device.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "common/annotate.h"

namespace detcore::roi_align {

template <class A>
struct Parameters {
    int out_height, out_width, sampling_ratio;
    bool aligned;
    A canonical_size;
    int canonical_level;  // counted from the first level present
};

template <class A>
struct Level {
    int height, width;
    A scale;
};

// One axis of a RoI, in pixels of its level.
template <class A>
struct Axis {
    A start, bin;
    int samples;  // per bin

    DETCORE_HD A place(int of_bin, int i) const { return start + A(of_bin) * bin + (A(i) + A(0.5)) * bin / A(samples); }
};

template <class A>
struct Place {
    A y, x;
};

// All samples of a RoI: its axes, turned by an angle (counter-clockwise on the screen) and moved to a centre.
template <class A>
struct Grid {
    int image, level;  // level -1: reads nothing
    Axis<A> y, x;
    A centre_y, centre_x, cos, sin;

    // The upright one has centre 0, cos 1 and sin 0, which give back v and u without a rounding.
    DETCORE_HD Place<A> place(int row, int i, int column, int j) const {
        const A v = y.place(row, i), u = x.place(column, j);
        return {centre_y + (v * cos - u * sin), centre_x + (v * sin + u * cos)};
    }
};

// A sample lies between the pixel `low` of an axis and the next one, whose share is `rest`.
template <class A>
struct Between {
    int low;  // -1: outside by more than a pixel
    A rest;
};

template <class A>
inline DETCORE_HD Between<A> between(A place, int size) {
    if (!(place >= -1 && place <= A(size))) return {-1, A(0)};
    place = place > 0 ? place : A(0);
    const int low = std::min(static_cast<int>(place), size - 1);
    return {low, low == size - 1 ? A(0) : place - A(low)};
}

template <class A>
inline DETCORE_HD bool is_finite(const A* numbers, int count) {
    bool finite = true;
    for (int i = 0; i < count; ++i) finite = finite && numbers[i] - numbers[i] == 0;
    return finite;
}

// FPN's equation 1, as an index into the levels present. The logarithm is taken in float64 so that every device rounds
// it to the same number.
template <class A>
inline DETCORE_HD int level_of(const A* box, const Parameters<A>& p, int num_levels) {
    A area = (box[2] - box[0]) * (box[3] - box[1]);
    area = area > 0 ? area : A(0);  // NaN too
    const double ratio = std::sqrt(area) / p.canonical_size + A(1e-8);
    const A exact = A(p.canonical_level) + A(std::log2(ratio));
    return static_cast<int>(std::floor(std::min(std::max(exact, A(0)), A(num_levels - 1))));
}

template <class A>
inline DETCORE_HD Axis<A> axis_of_length(A start, A length, int bins, int sampling_ratio) {
    const A bin = length / A(bins);
    const int samples = sampling_ratio > 0 ? sampling_ratio : static_cast<int>(std::ceil(bin));
    return {start, bin, std::max(samples, 0)};
}

// Coordinates are held to three map lengths outside the map, which bounds the number of samples.
template <class A>
inline DETCORE_HD Axis<A> axis_of(A low, A high, A scale, int longest_side, int bins, const Parameters<A>& p) {
    const A reach = A(longest_side) / scale;
    low = std::min(std::max(low, -3 * reach), 4 * reach);
    high = std::min(std::max(high, -3 * reach), 4 * reach);
    const A shift = p.aligned ? A(0.5) : A(0);
    const A start = low * scale - shift;
    A length = (high * scale - shift) - start;
    if (!p.aligned) length = std::max(length, A(1));
    return axis_of_length(start, length, bins, p.sampling_ratio);
}

// RoI: image, x1, y1, x2, y2.
template <class A>
inline DETCORE_HD Grid<A> upright_grid(const A* roi, int64_t batch, const Level<A>* levels, int num_levels,
                                       const Parameters<A>& p) {
    Grid<A> grid{0, -1, {}, {}, A(0), A(0), A(1), A(0)};
    if (!is_finite(roi, 5) || roi[0] < 0 || roi[0] >= A(batch)) return grid;
    const int index = level_of(roi + 1, p, num_levels);
    const Level<A>& level = levels[index];
    if (level.height == 0 || level.width == 0) return grid;
    const int longest = std::max(level.height, level.width);
    grid.image = static_cast<int>(roi[0]);
    grid.level = index;
    grid.x = axis_of(roi[1], roi[3], level.scale, longest, p.out_width, p);
    grid.y = axis_of(roi[2], roi[4], level.scale, longest, p.out_height, p);
    return grid;
}

// RoI: image, cx, cy, w, h, angle in degrees. Sides are held to 0 .. 4 (H + W) pixels.
template <class A>
inline DETCORE_HD Grid<A> turned_grid(const A* roi, int64_t batch, const Level<A>& level, const Parameters<A>& p) {
    Grid<A> grid{0, -1, {}, {}, A(0), A(0), A(1), A(0)};
    if (!is_finite(roi, 6) || roi[0] < 0 || roi[0] >= A(batch) || level.height == 0 || level.width == 0) return grid;
    const A extent = A(level.height) + A(level.width);
    grid.centre_x = roi[1] * level.scale - A(0.5);
    grid.centre_y = roi[2] * level.scale - A(0.5);
    // From so far away no sample reaches the map.
    if (!(std::max(std::abs(grid.centre_x), std::abs(grid.centre_y)) <= 16 * extent)) return grid;
    grid.image = static_cast<int>(roi[0]);
    grid.level = 0;
    const A width = std::min(std::max(roi[3] * level.scale, A(0)), 4 * extent);
    const A height = std::min(std::max(roi[4] * level.scale, A(0)), 4 * extent);
    grid.x = axis_of_length(-width / 2, width, p.out_width, p.sampling_ratio);
    grid.y = axis_of_length(-height / 2, height, p.out_height, p.sampling_ratio);
    // In float64, whose rounding to float32 is the same on every device.
    const double angle = std::fmod(double(roi[5]), 360.0) * 0.017453292519943295;
    grid.cos = A(std::cos(angle));
    grid.sin = A(std::sin(angle));
    return grid;
}

}  // namespace detcore::roi_align
