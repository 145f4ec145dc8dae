// What the losses do with their arguments before any kernel runs.
#pragma once

#include <cstdint>
#include <utility>

#include "common/tensor.h"

namespace detcore::losses {

// As `as`, and so that four numbers can be read at once; copied only if it is not so already.
template <class T>
Tensor aligned_as(const Tensor& tensor) {
    Tensor typed = as<T>(tensor);
    const bool aligned = reinterpret_cast<uintptr_t>(typed.const_data_ptr()) % (4 * sizeof(T)) == 0;
    return aligned ? typed : torch::stable::clone(typed);
}

// The gradient of a result. That of a sum is one number for all elements, and is not spread out in memory.
template <class A>
struct Incoming {
    Tensor owner;
    const A* values;
    bool constant;

    explicit Incoming(const Tensor& grad) : owner(grad), constant(grad.numel() > 0) {
        constant = constant && grad.scalar_type() == scalar_type_of<A>();
        for (int64_t d = 0; d < grad.dim(); ++d) constant = constant && (grad.size(d) == 1 || grad.stride(d) == 0);
        if (!constant) owner = aligned_as<A>(grad);
        values = data<A>(owner);
    }
};

// Calls run with the types of logits and targets, and with whether gamma is 2. Targets are of the logits' type or of
// the type computed in; the caller converts others.
template <class F>
void dispatch_focal(ScalarType logits, ScalarType targets, double gamma, const F& run) {
    dispatch_float(logits, [&]<class T>(T) {
        const auto with = [&]<class U>(U) {
            gamma == 2 ? run(T{}, U{}, std::true_type{}) : run(T{}, U{}, std::false_type{});
        };
        targets == logits ? with(T{}) : with(Accumulator<T>{});
    });
}

inline Tensor new_like(const Tensor& tensor, ScalarType type) {
    const auto sizes = tensor.sizes();
    return new_tensor({sizes.begin(), sizes.end()}, type, false, tensor.device());
}

}  // namespace detcore::losses
