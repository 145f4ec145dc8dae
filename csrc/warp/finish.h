// A row of grey levels through the colour matrix, the clamp and the normalisation, into the batch.
#pragma once

#include <algorithm>
#include <vector>

#include "common/lanes.h"

namespace detcore::warp {

// Channels alternate along a row of pixels, so every coefficient is a pattern of period 3: three vectors hold it.
constexpr int kBlock = 3 * Lanes<float>::count;
// Numbers before and after a row of levels that a block may read and must be allowed to.
constexpr int kMargin = kBlock;

struct Pattern {
    float values[kBlock];

    Lanes<float> operator[](int vector) const { return Lanes<float>::load(values + vector * Lanes<float>::count); }
};

class Finish {
  public:
    // colour: 3 rows (r, g, b, added), on the 0..255 scale.
    Finish(const float* colour, const double* mean, const double* std) {
        for (int i = 0; i < kBlock; ++i) {
            const int c = i % 3;
            scale_.values[i] = static_cast<float>(1 / std[c]);
            shift_.values[i] = static_cast<float>(-mean[c] / std[c]);
            added_.values[i] = colour[4 * c + 3];
            // Output channel c takes channel c + offset from the number `offset` places on.
            for (int offset = -2; offset <= 2; ++offset) {
                const int from = c + offset;
                mix_[offset + 2].values[i] = from >= 0 && from < 3 ? colour[4 * c + from] : 0.0f;
            }
            for (int from = 0; from < 4; ++from) recolours_ |= colour[4 * c + from] != (from == c ? 1.0f : 0.0f);
        }
    }

    // levels: 3 * pixels numbers, with a margin on both sides; coverage: one number a level, or null for 1.
    template <class T>
    void row(const float* levels, const float* coverage, int64_t pixels, T* out) const {
        const int64_t length = 3 * pixels;
        T rest[kBlock];
        for (int64_t i = 0; i < length; i += kBlock) {
            T* to = i + kBlock <= length ? out + i : rest;
            for (int v = 0; v < 3; ++v) {
                const int64_t at = i + v * Lanes<float>::count;
                Lanes<float> value = Lanes<float>::load(levels + at);
                if (recolours_) value = recolour(levels + at, v);
                value = {value.v * scale_[v].v + shift_[v].v};
                if (coverage) value = {value.v * Lanes<float>::load(coverage + at).v};
                value.store(to + v * Lanes<float>::count);
            }
            if (to == rest) std::copy_n(rest, length - i, out + i);
        }
    }

  private:
    Lanes<float> recolour(const float* level, int v) const {
        Lanes<float> sum = added_[v];
        for (int k = 0; k < 5; ++k) sum.v += mix_[k][v].v * Lanes<float>::load(level + k - 2).v;
        typedef Lanes<float>::Vector Vector;
        const Vector low{}, high = Vector{} + 255.0f;
        sum.v = sum.v > low ? sum.v : low;
        sum.v = sum.v < high ? sum.v : high;
        return sum;
    }

    Pattern scale_, shift_, added_, mix_[5];
    bool recolours_ = false;
};

}  // namespace detcore::warp
