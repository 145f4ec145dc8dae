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

    bool recolours() const { return recolours_; }

    // levels: 3 * pixels numbers, with a margin on both sides; coverage: one number a level, or null for 1.
    template <class T>
    void row(const float* levels, const float* coverage, int64_t pixels, T* out) const {
        write(3 * pixels, out, [&](int64_t at, int v) {
            Lanes<float> value = recolours_ ? recolour(levels + at, v) : Lanes<float>::load(levels + at);
            value = {value.v * scale_[v].v + shift_[v].v};
            if (coverage) value = {value.v * Lanes<float>::load(coverage + at).v};
            return value;
        });
    }

    // Where colours stay as they are, what gives the levels need not store them. levels: from the place of the first of
    // a vector to the vector; it may be asked for up to a block beyond the row.
    template <class T, class Levels>
    void row_as_it_is(const Levels& levels, int64_t pixels, T* out) const {
        const Lanes<float> scale[] = {scale_[0], scale_[1], scale_[2]}, shift[] = {shift_[0], shift_[1], shift_[2]};
        write(3 * pixels, out,
              [&](int64_t at, int v) -> Lanes<float> { return {levels(at).v * scale[v].v + shift[v].v}; });
    }

  private:
    // The batch is larger than the caches, so that it goes past them.
    template <class T, class Value>
    static void write(int64_t length, T* out, const Value& value) {
        constexpr int kCount = Lanes<float>::count;
        const int64_t whole = length / kBlock * kBlock;
        const auto each = [&](int64_t begin, int64_t end, const auto& store) {
            for (int64_t i = begin; i < end; i += kBlock)
                for (int v = 0; v < 3; ++v) store(value(i + v * kCount, v), i + v * kCount);
        };
        if (reinterpret_cast<uintptr_t>(out) % (kCount * sizeof(T)) == 0) {
            each(0, whole, [&](const Lanes<float>& numbers, int64_t at) { numbers.stream(out + at); });
            Lanes<float>::streamed();
        } else {
            each(0, whole, [&](const Lanes<float>& numbers, int64_t at) { numbers.store(out + at); });
        }
        T rest[kBlock];
        each(whole, length, [&](const Lanes<float>& numbers, int64_t at) { numbers.store(rest + at - whole); });
        std::copy_n(rest, length - whole, out + whole);
    }

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
