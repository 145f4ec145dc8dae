// Philox for many candidates of one image at once.
#pragma once

#include <cstdint>

#include "random/op.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace detcore::random {

#if defined(__AVX2__)
inline __m256i three_way_xor(__m256i a, __m256i b, __m256i c) {
#if defined(__AVX512VL__)
    return _mm256_ternarylogic_epi64(a, b, c, 0x96);
#else
    return _mm256_xor_si256(_mm256_xor_si256(a, b), c);
#endif
}

// The first words of 16 candidates. A product takes the low half of each 64-bit lane alone, so what is left in the high
// halves does no harm. Candidates differ in one word of four: what the first two rounds make of the others is computed
// once, and of the last round the first word alone.
inline void philox_first_words(const int64_t* candidates, uint32_t c1, uint32_t c2, uint32_t c3, Key key,
                               uint32_t* out) {
    constexpr int groups = 4;
    constexpr uint64_t kFirst = 0xD2511F53, kSecond = 0xCD9E8D57;
    const auto all = [](uint64_t word) { return _mm256_set1_epi64x(static_cast<int64_t>(word)); };
    const auto high_half = [](__m256i x) { return _mm256_srli_epi64(x, 32); };
    const auto next = [&key] {
        key.low += 0x9E3779B9u;
        key.high += 0xBB67AE85u;
    };
    const __m256i first = all(kFirst), second = all(kSecond);
    __m256i w0[groups], w1[groups], w2[groups], w3[groups];
    const uint64_t one = c2 * kSecond, two = (static_cast<uint32_t>(one >> 32) ^ c1 ^ key.low) * kFirst;
    const __m256i before = all(c3 ^ key.high);
    next();
    const __m256i even = all(static_cast<uint32_t>(one) ^ key.low), odd = all((two >> 32) ^ key.high);
    next();
    for (int i = 0; i < groups; ++i) {
        const __m256i ids = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(candidates + 4 * i));
        const __m256i a = _mm256_mul_epu32(ids, first);
        w1[i] = _mm256_mul_epu32(_mm256_xor_si256(high_half(a), before), second);
        w0[i] = _mm256_xor_si256(high_half(w1[i]), even);
        w2[i] = _mm256_xor_si256(a, odd);
        w3[i] = all(two);
    }
    for (int round = 2; round < 9; ++round, next()) {
        const __m256i low = all(key.low), high = all(key.high);
        for (int i = 0; i < groups; ++i) {
            const __m256i a = _mm256_mul_epu32(w0[i], first), b = _mm256_mul_epu32(w2[i], second);
            w0[i] = three_way_xor(high_half(b), w1[i], low);
            w1[i] = b;
            w2[i] = three_way_xor(high_half(a), w3[i], high);
            w3[i] = a;
        }
    }
    alignas(32) uint64_t wide[4 * groups];
    for (int i = 0; i < groups; ++i) {
        const __m256i b = _mm256_mul_epu32(w2[i], second);
        _mm256_store_si256(reinterpret_cast<__m256i*>(wide + 4 * i), three_way_xor(high_half(b), w1[i], all(key.low)));
    }
    for (int i = 0; i < 4 * groups; ++i) out[i] = static_cast<uint32_t>(wide[i]);
}
#else
inline void philox_first_words(const int64_t* candidates, uint32_t c1, uint32_t c2, uint32_t c3, Key key,
                               uint32_t* out) {
    for (int i = 0; i < 16; ++i) out[i] = philox_first_word(static_cast<uint32_t>(candidates[i]), c1, c2, c3, key);
}
#endif

}  // namespace detcore::random
