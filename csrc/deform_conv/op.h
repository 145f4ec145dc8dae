// Deformable convolution (Dai et al. 2017, Zhu et al. 2019) as a matrix product of sampled columns: where a tap of an
// output position samples, and where its samples stand, for every device.
#pragma once

#include <cstdint>

#include "common/annotate.h"
#include "common/bilinear.h"

namespace detcore::deform_conv {

// Inputs are (image, y, x, channel), columns (group, position, tap, channel of the group); positions count on over the
// images. Offsets are (image, offset group, tap, dy or dx, y, x), masks (image, offset group, tap, y, x).
struct Shape {
    int64_t channels, groups, offset_groups;
    int height, width, out_height, out_width, kernel_height, kernel_width;
    int stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x;
    int64_t first, count;  // positions of this call

    DETCORE_HD int taps() const { return kernel_height * kernel_width; }
    // Taps of all offset groups, each of which reads its own channels.
    DETCORE_HD int64_t all_taps() const { return offset_groups * taps(); }
    DETCORE_HD int64_t channels_of_tap() const { return channels / offset_groups; }
    DETCORE_HD int64_t out_area() const { return int64_t{out_height} * out_width; }

    // Where the offsets of a tap (of all) of a position of this call begin, in masks; in offsets, see `tap`.
    DETCORE_HD int64_t mask_index(int64_t position, int64_t tap) const {
        const int64_t image = (first + position) / out_area();
        return (image * all_taps() + tap) * out_area() + (first + position) % out_area();
    }

    DETCORE_HD int64_t offset_index(int64_t position, int64_t tap) const {
        const int64_t image = (first + position) / out_area();
        return (image * all_taps() + tap) * 2 * out_area() + (first + position) % out_area();
    }

    template <class A>
    DETCORE_HD BilinearTap<A> tap(const A* offset, int64_t position, int64_t tap) const {
        const int64_t image = (first + position) / out_area();
        const int place = static_cast<int>((first + position) % out_area());
        const int kernel_place = static_cast<int>(tap % taps());
        const A* own = offset + offset_index(position, tap);
        const int y = place / out_width * stride_y - padding_y + kernel_place / kernel_width * dilation_y;
        const int x = place % out_width * stride_x - padding_x + kernel_place % kernel_width * dilation_x;
        return bilinear_tap(A(y) + own[0], A(x) + own[out_area()], height, width, image * height * width);
    }

    DETCORE_HD int64_t column_index(int64_t position, int64_t tap, int64_t channel) const {
        const int64_t depth = channels / groups, group = groups == 1 ? 0 : channel / depth;
        return ((group * count + position) * taps() + tap % taps()) * depth + channel - group * depth;
    }
};

}  // namespace detcore::deform_conv
