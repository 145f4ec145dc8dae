// Vectors of numbers, as wide as the machine's registers. Products and sums of them are the compiler's; what it does
// badly (conversions, fused multiply-adds without -ffp-contract) is said in the machine's own words.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>

#include "common/numeric.h"

namespace detcore {

#if defined(__AVX512F__)
constexpr int kLaneBytes = 64;
#elif defined(__AVX2__)
constexpr int kLaneBytes = 32;
#else
constexpr int kLaneBytes = 16;
#endif

template <class A>
struct Lanes {
    static constexpr int count = kLaneBytes / sizeof(A);
    typedef A Vector __attribute__((vector_size(kLaneBytes)));
    Vector v;

    static Lanes zero() { return {Vector{}}; }

    template <class T>
    static Lanes load(const T* from) {
        Lanes out;
        if constexpr (std::is_same_v<T, A>) {
            std::memcpy(&out.v, from, sizeof(out.v));
        } else {
            out.v = converted(from);
        }
        return out;
    }

    template <class T>
    void store(T* to) const {
        if constexpr (std::is_same_v<T, A>) {
            std::memcpy(to, &v, sizeof(v));
        } else {
            convert(to);
        }
    }

    // Stores past the caches, to a multiple of the size of what is stored: for what is not read again soon. `streamed`
    // comes before another thread may read it.
    template <class T>
    void stream(T* to) const {
        constexpr int kBytes = count * sizeof(T);
        alignas(kBytes) T numbers[count];
        store(numbers);
#if defined(__AVX512F__)
        if constexpr (kBytes == 64)
            return _mm512_stream_si512(reinterpret_cast<__m512i*>(to), _mm512_load_si512(numbers));
#endif
#if defined(__AVX2__)
        if constexpr (kBytes == 32) {
            const auto* from = reinterpret_cast<const __m256i*>(numbers);
            return _mm256_stream_si256(reinterpret_cast<__m256i*>(to), _mm256_load_si256(from));
        } else if constexpr (kBytes == 16) {
            const auto* from = reinterpret_cast<const __m128i*>(numbers);
            return _mm_stream_si128(reinterpret_cast<__m128i*>(to), _mm_load_si128(from));
        }
#endif
        std::memcpy(to, numbers, sizeof(numbers));
    }

    static void streamed() {
#if defined(__AVX2__)
        _mm_sfence();
#endif
    }

    // this += weight * other, rounded once where the machine can.
    void add(A weight, const Lanes& other) {
        const Vector factor = Vector{} + weight;
#if defined(__AVX512F__)
        if constexpr (std::is_same_v<A, float>) {
            v = _mm512_fmadd_ps(factor, other.v, v);
        } else {
            v = _mm512_fmadd_pd(factor, other.v, v);
        }
#elif defined(__AVX2__) && defined(__FMA__)
        if constexpr (std::is_same_v<A, float>) {
            v = _mm256_fmadd_ps(factor, other.v, v);
        } else {
            v = _mm256_fmadd_pd(factor, other.v, v);
        }
#else
        v += factor * other.v;
#endif
    }

    // Of all lanes, by halves.
    A sum() const {
#if defined(__AVX512F__)
        if constexpr (std::is_same_v<A, float>) {
            return _mm512_reduce_add_ps(v);
        } else {
            return _mm512_reduce_add_pd(v);
        }
#else
        A numbers[count];
        std::memcpy(numbers, &v, sizeof(v));
        for (int half = count / 2; half > 0; half /= 2)
            for (int i = 0; i < half; ++i) numbers[i] += numbers[i + half];
        return numbers[0];
#endif
    }

    // To the whole number below, of numbers from 0 to 2^31.
    void round_down() {
#if defined(__AVX512F__)
        v = _mm512_cvtepi32_ps(_mm512_cvttps_epi32(v));
#elif defined(__AVX2__)
        v = _mm256_cvtepi32_ps(_mm256_cvttps_epi32(v));
#else
        for (int i = 0; i < count; ++i) v[i] = static_cast<A>(static_cast<int32_t>(v[i]));
#endif
    }

  private:
    template <class T>
    static Vector converted(const T* from) {
#if defined(__AVX512F__)
        if constexpr (std::is_same_v<T, bfloat16>) {
            const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
            return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
        } else if constexpr (std::is_same_v<T, half>) {
            return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
        } else if constexpr (std::is_same_v<T, uint8_t>) {
            return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
        }
#elif defined(__AVX2__)
        if constexpr (std::is_same_v<T, bfloat16>) {
            const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
            return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
        } else if constexpr (std::is_same_v<T, uint8_t>) {
            return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
        }
#endif
        A wide[count];
        for (int i = 0; i < count; ++i) wide[i] = static_cast<A>(widen(from[i]));
        Vector out;
        std::memcpy(&out, wide, sizeof(out));
        return out;
    }

    template <class T>
    void convert(T* to) const {
#if defined(__AVX512F__)
        if constexpr (std::is_same_v<T, bfloat16>) {
            const __m512i bits = _mm512_castps_si512(v);
            const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
            __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            rounded = _mm512_srli_epi32(rounded, 16);
            const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
            rounded = _mm512_mask_set1_epi32(rounded, nan, 0x7fc0);
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(rounded));
            return;
        } else if constexpr (std::is_same_v<T, half>) {
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
            return;
        }
#elif defined(__AVX2__)
        if constexpr (std::is_same_v<T, bfloat16>) {
            const __m256i bits = _mm256_castps_si256(v);
            const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
            __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
            const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
            rounded = _mm256_blendv_epi8(_mm256_srli_epi32(rounded, 16), _mm256_set1_epi32(0x7fc0), nan);
            const __m128i low = _mm256_castsi256_si128(rounded), high = _mm256_extracti128_si256(rounded, 1);
            _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_packus_epi32(low, high));
            return;
        }
#endif
        A wide[count];
        std::memcpy(wide, &v, sizeof(v));
        for (int i = 0; i < count; ++i) to[i] = narrow<T>(wide[i]);
    }
};

}  // namespace detcore
