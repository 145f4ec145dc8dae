// The shape of a call, from its arguments.
#pragma once

#include <limits>
#include <vector>

#include "common/tensor.h"
#include "deform_conv/op.h"

namespace detcore::deform_conv {

// kernel, stride, padding and dilation: of y and x. The input lies with its channels last.
inline Shape shape_of(const Tensor& input, const Tensor& offset, const std::vector<int64_t>& kernel,
                      const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                      const std::vector<int64_t>& dilation, int64_t groups, int64_t first, int64_t count) {
    constexpr int64_t largest = std::numeric_limits<int>::max();
    STD_TORCH_CHECK(input.size(2) <= largest && input.size(3) <= largest && offset.size(2) * offset.size(3) <= largest,
                    "deform_conv2d: a map has more than 2^31 pixels");
    const auto at = [](const std::vector<int64_t>& pair, int i) { return static_cast<int>(pair[i]); };
    return {input.size(1),
            groups,
            offset.size(1) / (2 * kernel[0] * kernel[1]),
            static_cast<int>(input.size(2)),
            static_cast<int>(input.size(3)),
            static_cast<int>(offset.size(2)),
            static_cast<int>(offset.size(3)),
            at(kernel, 0),
            at(kernel, 1),
            at(stride, 0),
            at(stride, 1),
            at(padding, 0),
            at(padding, 1),
            at(dilation, 0),
            at(dilation, 1),
            first,
            count};
}

}  // namespace detcore::deform_conv
