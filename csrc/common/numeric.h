// Number types of 16 bits.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

namespace detcore {

struct bfloat16 {
    uint16_t bits;
};
using half = _Float16;

// What a kernel computes in.
template <class T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

inline float widen(uint8_t x) {
    return static_cast<float>(x);
}
inline float widen(bfloat16 x) {
    return std::bit_cast<float>(uint32_t{x.bits} << 16);
}
inline float widen(half x) {
    return static_cast<float>(x);
}
inline float widen(float x) {
    return x;
}
inline double widen(double x) {
    return x;
}

template <class T, class A>
inline T narrow(A x) {
    if constexpr (std::is_same_v<T, bfloat16>) {
        uint32_t bits = std::bit_cast<uint32_t>(x);
        // To nearest, ties to even; a NaN stays one.
        uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        return {static_cast<uint16_t>(x == x ? rounded : 0x7fc0)};
    } else {
        return static_cast<T>(x);
    }
}

// a * b + c, rounded once where the machine can do it at no cost.
template <class A>
inline A multiply_add(A a, A b, A c) {
#ifdef __FMA__
    if constexpr (std::is_same_v<A, float>) return __builtin_fmaf(a, b, c);
    return __builtin_fma(a, b, c);
#else
    return a * b + c;
#endif
}

}  // namespace detcore
