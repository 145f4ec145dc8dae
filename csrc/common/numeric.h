// Number types of 16 bits, and vectors of numbers for the compiler to put into registers.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace detcore {

struct bfloat16 {
    uint16_t bits;
};
using half = _Float16;

// What a kernel computes in.
template <class T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

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

// 64 bytes of numbers: one AVX-512 register, or what the compiler splits it into.
template <class A>
struct Lanes {
    static constexpr int count = 64 / sizeof(A);
    typedef A Vector __attribute__((vector_size(64)));
    Vector v;

    static Lanes zero() { return {Vector{}}; }

    template <class T>
    static Lanes load(const T* from) {
        Lanes out;
        if constexpr (std::is_same_v<T, A>) {
            std::memcpy(&out.v, from, sizeof(out.v));
        } else if constexpr (std::is_same_v<T, bfloat16>) {
            typedef uint16_t Narrow __attribute__((vector_size(32)));
            typedef uint32_t Wide __attribute__((vector_size(64)));
            Narrow narrow;
            std::memcpy(&narrow, from, sizeof(narrow));
            Wide bits = __builtin_convertvector(narrow, Wide) << 16;
            std::memcpy(&out.v, &bits, sizeof(bits));
        } else if constexpr (std::is_same_v<T, uint8_t>) {
            static_assert(count == 16);
            typedef uint8_t Narrow __attribute__((vector_size(16)));
            typedef int32_t Wide __attribute__((vector_size(64)));
            Narrow narrow;
            std::memcpy(&narrow, from, sizeof(narrow));
            const Wide wide = __builtin_convertvector(narrow, Wide);
            out.v = __builtin_convertvector(wide, Vector);
        } else {
            for (int i = 0; i < count; ++i) out.v[i] = widen(from[i]);
        }
        return out;
    }

    template <class T>
    void store(T* to) const {
        if constexpr (std::is_same_v<T, A>) {
            std::memcpy(to, &v, sizeof(v));
        } else if constexpr (std::is_same_v<T, bfloat16>) {
            typedef uint32_t Wide __attribute__((vector_size(64)));
            typedef uint16_t Narrow __attribute__((vector_size(32)));
            Wide bits;
            std::memcpy(&bits, &v, sizeof(bits));
            const Wide rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
            const Wide nan = Wide{} + 0x7fc0, chosen = v == v ? rounded : nan;
            const Narrow narrow = __builtin_convertvector(chosen, Narrow);
            std::memcpy(to, &narrow, sizeof(narrow));
        } else {
            for (int i = 0; i < count; ++i) to[i] = narrow<T>(A(v[i]));
        }
    }

    // this += weight * other
    void add(A weight, const Lanes& other) {
#ifdef __FMA__
        for (int i = 0; i < count; ++i) v[i] = multiply_add(weight, A(other.v[i]), A(v[i]));
#else
        v += weight * other.v;
#endif
    }
};

}  // namespace detcore
