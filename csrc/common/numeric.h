// Number types of 16 bits.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "common/annotate.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace detcore {

#ifdef __CUDACC__
using bfloat16 = __nv_bfloat16;
using half = __half;
#else
struct bfloat16 {
    uint16_t bits;
};
using half = _Float16;
#endif

// What a kernel computes in.
template <class T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

inline DETCORE_HD float widen(uint8_t x) {
    return static_cast<float>(x);
}
inline DETCORE_HD float widen(bfloat16 x) {
#ifdef __CUDACC__
    return __bfloat162float(x);
#else
    return std::bit_cast<float>(uint32_t{x.bits} << 16);
#endif
}
inline DETCORE_HD float widen(half x) {
    return static_cast<float>(x);
}
inline DETCORE_HD float widen(float x) {
    return x;
}
inline DETCORE_HD double widen(double x) {
    return x;
}

template <class T, class A>
inline DETCORE_HD T narrow(A x) {
#ifdef __CUDACC__
    if constexpr (std::is_same_v<T, bfloat16>) return __float2bfloat16_rn(x);
    if constexpr (std::is_same_v<T, half>) return __float2half_rn(x);
    return static_cast<T>(x);
#else
    if constexpr (std::is_same_v<T, bfloat16>) {
        uint32_t bits = std::bit_cast<uint32_t>(x);
        // To nearest, ties to even; a NaN stays one.
        uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        return {static_cast<uint16_t>(x == x ? rounded : 0x7fc0)};
    } else {
        return static_cast<T>(x);
    }
#endif
}

// a * b + c, rounded once where the machine can do it at no cost.
template <class A>
inline DETCORE_HD A multiply_add(A a, A b, A c) {
#ifdef __CUDA_ARCH__
    return fma(a, b, c);
#elif defined(__FMA__)
    if constexpr (std::is_same_v<A, float>) return __builtin_fmaf(a, b, c);
    return __builtin_fma(a, b, c);
#else
    return a * b + c;
#endif
}

// By one instruction on each device; where one of the two is NaN the result may be either.
template <class A>
inline DETCORE_HD A lesser(A a, A b) {
#ifdef __CUDA_ARCH__
    return fmin(a, b);
#else
    return a < b ? a : b;
#endif
}

template <class A>
inline DETCORE_HD A greater(A a, A b) {
#ifdef __CUDA_ARCH__
    return fmax(a, b);
#else
    return a > b ? a : b;
#endif
}

}  // namespace detcore
