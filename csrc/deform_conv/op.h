// Deformable convolution (Dai et al. 2017, Zhu et al. 2019) as a matrix product of sampled columns: where a tap of an
// output position samples, and where its samples stand, for every device.
#pragma once

#include <cstdint>

#include "common/annotate.h"
#include "common/bilinear.h"

namespace detcore::deform_conv {

// An output position.
struct Place {
    int image, pixel;
};

// Inputs are (image, y, x, channel), columns (group, position, tap, channel of the group); positions count on over the
// images. Offsets are (image, offset group, tap, dy or dx, y, x), masks (image, offset group, tap, y, x). A tap is
// meant with its offset group, whose channels it reads.
struct Shape {
    int channels, groups, offset_groups, height, width, out_height, out_width, kernel_height, kernel_width;
    int stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x;
    int first, count;  // positions of this call

    DETCORE_HD int taps_of_group() const { return kernel_height * kernel_width; }
    DETCORE_HD int taps() const { return offset_groups * taps_of_group(); }
    DETCORE_HD int channels_of_tap() const { return channels / offset_groups; }
    DETCORE_HD int first_channel(int tap) const { return tap / taps_of_group() * channels_of_tap(); }
    DETCORE_HD int out_area() const { return out_height * out_width; }

    // `position` counts from the first of this call.
    DETCORE_HD Place place(int position) const {
        return {(first + position) / out_area(), (first + position) % out_area()};
    }

    DETCORE_HD int64_t mask_index(Place at, int tap) const {
        return (int64_t{at.image} * taps() + tap) * out_area() + at.pixel;
    }

    // Of dy; dx is one map further.
    DETCORE_HD int64_t offset_index(Place at, int tap) const {
        return (int64_t{at.image} * taps() + tap) * 2 * out_area() + at.pixel;
    }

    template <class A>
    DETCORE_HD BilinearTap<A> tap(const A* offset, Place at, int tap) const {
        const int kernel_place = tap % taps_of_group();
        const A* own = offset + offset_index(at, tap);
        const int y = at.pixel / out_width * stride_y - padding_y + kernel_place / kernel_width * dilation_y;
        const int x = at.pixel % out_width * stride_x - padding_x + kernel_place % kernel_width * dilation_x;
        return bilinear_tap(A(y) + own[0], A(x) + own[out_area()], height, width, int64_t{at.image} * height * width);
    }

    // Where the columns of a position and tap begin, of the first group.
    DETCORE_HD int64_t column_row(int position, int tap) const {
        return (int64_t{position} * taps_of_group() + tap % taps_of_group()) * (channels / groups);
    }

    DETCORE_HD int64_t column_index(int64_t row, int channel) const {
        if (groups == 1) return row + channel;
        const int depth = channels / groups;
        return row + int64_t{channel / depth} * count * taps_of_group() * depth + channel % depth;
    }
};

}  // namespace detcore::deform_conv
