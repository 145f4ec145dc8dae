// What the box losses do with their arguments on every device.
#pragma once

#include <type_traits>

#include "common/tensor.h"
#include "losses/arguments.h"
#include "losses/boxes.h"

namespace detcore::losses {

template <Kind kind>
using Constant = std::integral_constant<Kind, kind>;

// Calls run with the type of the boxes and the kind of loss.
template <class F>
void dispatch_boxes(const Tensor& boxes1, const Tensor& boxes2, int64_t kind, const F& run) {
    STD_TORCH_CHECK(boxes1.dim() > 0 && boxes1.size(boxes1.dim() - 1) == 4, "boxes must be (..., 4)");
    STD_TORCH_CHECK(boxes1.numel() == boxes2.numel() && boxes1.scalar_type() == boxes2.scalar_type(),
                    "both boxes must have one shape and dtype");
    dispatch_float(boxes1.scalar_type(), [&]<class T>(T) {
        switch (static_cast<Kind>(kind)) {
            case Kind::giou:
                return run(T{}, Constant<Kind::giou>{});
            case Kind::diou:
                return run(T{}, Constant<Kind::diou>{});
            case Kind::ciou:
                return run(T{}, Constant<Kind::ciou>{});
        }
        STD_TORCH_CHECK(false, "no such loss: ", kind);
    });
}

// One number for each pair of boxes.
template <class A>
Tensor new_losses(const Tensor& boxes) {
    const auto sizes = boxes.sizes();
    return new_tensor({sizes.begin(), sizes.end() - 1}, scalar_type_of<A>(), false, boxes.device());
}

// As the boxes, or of no elements if nobody asks for it.
inline Tensor new_gradient(const Tensor& boxes, bool needed) {
    return needed ? new_like(boxes, boxes.scalar_type()) : new_tensor({0}, boxes.scalar_type(), false, boxes.device());
}

}  // namespace detcore::losses
