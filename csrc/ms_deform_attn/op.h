// Multi-scale deformable attention (Zhu et al. 2021, equation 3): what is where in memory, for every device.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "common/annotate.h"
#include "common/bilinear.h"
#include "common/tensor.h"

namespace detcore::ms_deform_attn {

constexpr int kMostLevels = 16;

// Values are (image, position, head, channel), locations (image, query, head, level, point, x or y), weights the same
// without the last axis, outputs (image, query, head, channel). An item is an image, a query and a head.
struct Shape {
    int64_t batch, positions, queries;
    int heads, channels, levels, points;
    int height[kMostLevels], width[kMostLevels];
    int64_t first[kMostLevels];  // position of a level

    DETCORE_HD int64_t items() const { return batch * queries * heads; }
    DETCORE_HD int64_t samples() const { return int64_t{levels} * points; }  // of an item
    // From a pixel to the one beside it.
    DETCORE_HD int64_t pixel_stride() const { return int64_t{heads} * channels; }

    // Where the first channel of a level's first pixel lies.
    DETCORE_HD int64_t plane(int64_t image, int head, int level) const {
        return ((image * positions + first[level]) * heads + head) * channels;
    }

    // The pixels count from the level's first.
    template <class A>
    DETCORE_HD BilinearTap<A> tap(const A* location, int level) const {
        return bilinear_tap(location[1] * A(height[level]) - A(0.5), location[0] * A(width[level]) - A(0.5),
                            height[level], width[level], 0);
    }
};

inline Shape shape_of(const Tensor& value, const Tensor& weights, const std::vector<int64_t>& heights,
                      const std::vector<int64_t>& widths) {
    constexpr int64_t largest = std::numeric_limits<int>::max();
    STD_TORCH_CHECK(heights.size() <= kMostLevels, "ms_deform_attn: more than 16 levels");
    STD_TORCH_CHECK(value.size(1) <= largest && value.size(2) * value.size(3) <= largest,
                    "ms_deform_attn: more than 2^31 positions, or numbers of a position");
    Shape s{value.size(0),
            value.size(1),
            weights.size(1),
            static_cast<int>(value.size(2)),
            static_cast<int>(value.size(3)),
            static_cast<int>(heights.size()),
            static_cast<int>(weights.size(4)),
            {},
            {},
            {}};
    int64_t first = 0;
    for (int level = 0; level < s.levels; ++level) {
        s.height[level] = static_cast<int>(heights[level]);
        s.width[level] = static_cast<int>(widths[level]);
        s.first[level] = first;
        first += heights[level] * widths[level];
    }
    STD_TORCH_CHECK(first == s.positions, "ms_deform_attn: the levels do not add up to the value's positions");
    return s;
}

}  // namespace detcore::ms_deform_attn
