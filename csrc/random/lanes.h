// Philox for many candidates of one image at once.
#pragma once

#include <cstdint>

#include "random/op.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace detcore::random {

#if defined(__AVX2__)
// The first words of 16 candidates. A product takes the low half of each 64-bit lane alone, so what is left in the high
// halves does no harm.
inline void philox_first_words(const int64_t* candidates, uint32_t c1, uint32_t c2, uint32_t c3, Key key,
                               uint32_t* out) {
    constexpr int groups = 4;
    const __m256i first = _mm256_set1_epi64x(0xD2511F53), second = _mm256_set1_epi64x(0xCD9E8D57);
    __m256i w0[groups], w1[groups], w2[groups], w3[groups];
    for (int i = 0; i < groups; ++i) {
        w0[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(candidates + 4 * i));
        w1[i] = _mm256_set1_epi64x(c1), w2[i] = _mm256_set1_epi64x(c2), w3[i] = _mm256_set1_epi64x(c3);
    }
    for (int round = 0; round < 10; ++round) {
        const __m256i low = _mm256_set1_epi64x(key.low), high = _mm256_set1_epi64x(key.high);
        for (int i = 0; i < groups; ++i) {
            const __m256i a = _mm256_mul_epu32(w0[i], first), b = _mm256_mul_epu32(w2[i], second);
            w0[i] = _mm256_xor_si256(_mm256_srli_epi64(b, 32), _mm256_xor_si256(w1[i], low));
            w1[i] = b;
            w2[i] = _mm256_xor_si256(_mm256_srli_epi64(a, 32), _mm256_xor_si256(w3[i], high));
            w3[i] = a;
        }
        key.low += 0x9E3779B9u;
        key.high += 0xBB67AE85u;
    }
    alignas(32) uint64_t wide[4 * groups];
    for (int i = 0; i < groups; ++i) _mm256_store_si256(reinterpret_cast<__m256i*>(wide + 4 * i), w0[i]);
    for (int i = 0; i < 4 * groups; ++i) out[i] = static_cast<uint32_t>(wide[i]);
}
#else
inline void philox_first_words(const int64_t* candidates, uint32_t c1, uint32_t c2, uint32_t c3, Key key,
                               uint32_t* out) {
    for (int i = 0; i < 16; ++i) out[i] = philox_first_word(static_cast<uint32_t>(candidates[i]), c1, c2, c3, key);
}
#endif

}  // namespace detcore::random
