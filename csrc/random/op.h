// Philox4x32-10 (Salmon et al. 2011): random numbers as a function of a counter and a key.
#pragma once

#include <cstdint>

#include "common/annotate.h"

namespace detcore::random {

struct Key {
    uint32_t low, high;
};

inline DETCORE_HD uint32_t philox_first_word(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, Key key) {
    for (int round = 0; round < 10; ++round) {
        const uint64_t a = uint64_t{c0} * 0xD2511F53u, b = uint64_t{c2} * 0xCD9E8D57u;
        c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ key.low;
        c1 = static_cast<uint32_t>(b);
        c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ key.high;
        c3 = static_cast<uint32_t>(a);
        key.low += 0x9E3779B9u;
        key.high += 0xBB67AE85u;
    }
    return c0;
}

}  // namespace detcore::random
