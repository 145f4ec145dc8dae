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
    const int64_t positions = offset.size(0) * offset.size(2) * offset.size(3);
    STD_TORCH_CHECK(positions * offset.size(1) / 2 <= largest && input.size(2) * input.size(3) <= largest &&
                        input.size(3) * input.size(1) <= largest,
                    "deform_conv2d: more than 2^31 taps, or pixels of an image, or numbers in a row of one");
    const auto as_int = [](int64_t number) { return static_cast<int>(number); };
    return {as_int(input.size(1)),  as_int(groups),        as_int(offset.size(1) / (2 * kernel[0] * kernel[1])),
            as_int(input.size(2)),  as_int(input.size(3)), as_int(offset.size(2)),
            as_int(offset.size(3)), as_int(kernel[0]),     as_int(kernel[1]),
            as_int(stride[0]),      as_int(stride[1]),     as_int(padding[0]),
            as_int(padding[1]),     as_int(dilation[0]),   as_int(dilation[1]),
            as_int(first),          as_int(count)};
}

}  // namespace detcore::deform_conv
