// Tensors of the stable ABI, seen as what kernels work on: pointers of a known type.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "common/numeric.h"
#include "common/pages.h"

namespace detcore {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Calls f with a value of the type that a floating-point tensor holds.
template <class F>
void dispatch_float(ScalarType type, const F& f) {
    switch (type) {
        case ScalarType::Double:
            return f(double{});
        case ScalarType::Float:
            return f(float{});
        case ScalarType::BFloat16:
            return f(bfloat16{});
        case ScalarType::Half:
            return f(half{});
        default:
            STD_TORCH_CHECK(false, "expected float64, float32, bfloat16 or float16");
    }
}

template <class T>
constexpr ScalarType scalar_type_of() {
    if constexpr (std::is_same_v<T, double>) return ScalarType::Double;
    if constexpr (std::is_same_v<T, float>) return ScalarType::Float;
    if constexpr (std::is_same_v<T, bfloat16>) return ScalarType::BFloat16;
    if constexpr (std::is_same_v<T, half>) return ScalarType::Half;
    if constexpr (std::is_same_v<T, int64_t>) return ScalarType::Long;
    if constexpr (std::is_same_v<T, int32_t>) return ScalarType::Int;
    if constexpr (std::is_same_v<T, int8_t>) return ScalarType::Char;
    if constexpr (std::is_same_v<T, uint8_t>) return ScalarType::Byte;
    if constexpr (std::is_same_v<T, bool>) return ScalarType::Bool;
}

template <class T>
const T* data(const Tensor& tensor) {
    return static_cast<const T*>(tensor.const_data_ptr());
}

template <class T>
T* mutable_data(const Tensor& tensor) {
    return static_cast<T*>(tensor.mutable_data_ptr());
}

// The tensor in row-major order and of the type T, copied only if it is not so already.
template <class T>
Tensor as(const Tensor& tensor) {
    Tensor typed =
        tensor.scalar_type() == scalar_type_of<T>() ? tensor : torch::stable::to(tensor, scalar_type_of<T>());
    // Asked first: a call of torch's takes a microsecond also where it has nothing to do.
    return typed.is_contiguous() ? typed : torch::stable::contiguous(typed);
}

inline Tensor new_tensor(const std::vector<int64_t>& sizes, ScalarType type, bool channels_last = false,
                         std::optional<torch::stable::Device> device = std::nullopt) {
    Tensor out = torch::stable::empty(sizes, type, std::nullopt, device, std::nullopt,
                                      channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
    if (out.is_cpu()) prefer_large_pages(out.mutable_data_ptr(), out.numel() * static_cast<int64_t>(out.element_size()));
    return out;
}

}  // namespace detcore
