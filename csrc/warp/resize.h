// Resize with PIL's antialiased bilinear filter, one pass for each axis, of which the first rounds to 8 bits.
#pragma once

#if defined(__SSE4_1__)
#include <immintrin.h>
#endif

#include <cmath>
#include <cstring>
#include <vector>

#include "common/lanes.h"
#include "warp/finish.h"
#include "warp/op.h"

namespace detcore::warp {

// Which raw pixels each output pixel averages.
struct Filter {
    std::vector<int64_t> first;
    std::vector<int> taps;       // of each pixel
    std::vector<float> weights;  // `stride` for each pixel; the sum of a pixel's is 1
    int stride = 0;

    explicit Filter(const Axis& axis)
        : first(axis.end - axis.begin),
          taps(first.size()),
          weights(first.size() * most_taps(axis)),
          stride(most_taps(axis)) {
        std::vector<int16_t> own(stride);
        for (size_t i = 0; i < first.size(); ++i) {
            const Taps of = weigh(axis, axis.begin + static_cast<int64_t>(i), stride, own.data());
            first[i] = of.first;
            taps[i] = of.count;
            for (int k = 0; k < stride; ++k) weights[i * stride + k] = static_cast<float>(own[k]) / kOne;
        }
    }

    explicit Filter(int64_t count) : first(count), taps(count, 1), weights(count, 1.0f), stride(1) {
        for (int64_t i = 0; i < count; ++i) first[i] = i;
    }

    bool copies() const {
        for (size_t i = 0; i < first.size(); ++i)
            if (weights[i * stride] != 1 || first[i] != first[0] + static_cast<int64_t>(i)) return false;
        return true;
    }
};

// A row of pixels to a row of fewer or more: weights as fixed-point numbers of 16 bits, two at a time.
class Columns {
  public:
    explicit Columns(const Filter& filter) : first_(filter.first), copies_(filter.copies()) {
        int used = 1;
        for (int taps : filter.taps) used = std::max(used, taps);
        pairs_ = (used + 1) / 2;
        coefficients_.assign(first_.size() * 2 * pairs_, 0);
        for (size_t i = 0; i < first_.size(); ++i) {
            int16_t* own = &coefficients_[i * 2 * pairs_];
            for (int k = 0; k < filter.taps[i]; ++k)
                own[k] = static_cast<int16_t>(filter.weights[i * filter.stride + k] * kOne);
            reach_ = std::max(reach_, 3 * (first_[i] + 2 * pairs_) + 2);
        }
    }

    // Bytes that are read from a row's beginning on.
    int64_t reach() const { return reach_; }

    // Writes 3 bytes a pixel, and one more.
    void row(const uint8_t* from, uint8_t* to) const {
        const auto count = static_cast<int64_t>(first_.size());
        if (copies_) {
            std::memcpy(to, from + 3 * first_[0], 3 * count);
        } else if (pairs_ == 1) {
            pixels<1>(from, to, count);
        } else if (pairs_ == 2) {
            pixels<2>(from, to, count);
        } else {
            pixels<0>(from, to, count);
        }
    }

  private:
    // kPairs 0: as many as there are.
    template <int kPairs>
    void pixels(const uint8_t* from, uint8_t* to, int64_t count) const {
        const int pairs = kPairs ? kPairs : pairs_;
        const int16_t* own = coefficients_.data();
        for (int64_t i = 0; i < count; ++i, to += 3, own += 2 * pairs) {
            const uint8_t* pixel = from + 3 * first_[i];
#if defined(__SSE4_1__)
            const __m128i by_channel = _mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1);
            __m128i sum = _mm_set1_epi32(kOne / 2);
            for (int k = 0; k < pairs; ++k) {
                const __m128i two =
                    _mm_shuffle_epi8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(pixel + 6 * k)), by_channel);
                int32_t weights;
                std::memcpy(&weights, own + 2 * k, sizeof(weights));
                sum = _mm_add_epi32(sum, _mm_madd_epi16(two, _mm_set1_epi32(weights)));
            }
            sum = _mm_srai_epi32(sum, kBits);
            sum = _mm_packus_epi16(_mm_packs_epi32(sum, sum), sum);
            const int32_t bytes = _mm_cvtsi128_si32(sum);
            std::memcpy(to, &bytes, sizeof(bytes));
#else
            for (int c = 0; c < 3; ++c) {
                int32_t sum = kOne / 2;
                for (int k = 0; k < 2 * pairs; ++k) sum += own[k] * pixel[3 * k + c];
                to[c] = static_cast<uint8_t>(std::clamp(sum >> kBits, 0, 255));
            }
#endif
        }
    }

    std::vector<int64_t> first_;
    std::vector<int16_t> coefficients_;
    int pairs_ = 1;
    int64_t reach_ = 0;
    bool copies_;
};

// The rounded weighted mean of rows of bytes, as floats. Rows may be read up to a block beyond their length.
inline void mean_of_rows(const uint8_t* rows, int64_t row_bytes, const float* weights, int taps, int64_t length,
                         float* out) {
    for (int64_t i = 0; i < length; i += kBlock) {
        for (int v = 0; v < 3; ++v) {
            const int64_t at = i + v * Lanes<float>::count;
            Lanes<float> sum = {Lanes<float>::zero().v + 0.5f};
            for (int k = 0; k < taps; ++k) sum.add(weights[k], Lanes<float>::load(rows + k * row_bytes + at));
            sum.round_down();
            sum.store(out + at);
        }
    }
}

// Memory that a thread keeps from image to image.
struct Scratch {
    std::vector<uint8_t> rows, raw_row, resized_rows;
    std::vector<float> levels, coverage;

    float* level_row(int64_t length) {
        levels.assign(std::max<size_t>(levels.size(), length + 3 * kMargin), 0.0f);
        return levels.data() + kMargin;
    }
};

inline int64_t padded(int64_t bytes) {
    return (bytes + 2 * kBlock + 63) / 64 * 64;
}

// image (height, width, 3) into rows y.begin to y.end of out (.., out_width, 3), columns from x.begin on.
template <class T>
void resize(const uint8_t* image, const Axis& x, const Axis& y, const Finish& finish, int64_t out_width, T* out,
            Scratch& scratch) {
    const int64_t width = x.raw, pixels = x.end - x.begin, lines = y.end - y.begin;
    float* levels = scratch.level_row(3 * pixels);
    Filter vertical(y);
    int64_t height = y.raw;
    if (rows_first(x, y)) {  // the vertical pass now, and none later
        const int64_t row_bytes = 3 * width, bytes = padded(height * row_bytes);
        scratch.raw_row.resize(bytes);
        std::memcpy(scratch.raw_row.data(), image, height * row_bytes);
        scratch.resized_rows.resize(padded(lines * row_bytes));
        std::vector<float> means(padded(row_bytes));
        for (int64_t i = 0; i < lines; ++i) {
            mean_of_rows(scratch.raw_row.data() + vertical.first[i] * row_bytes, row_bytes,
                         &vertical.weights[i * vertical.stride], vertical.taps[i], row_bytes, means.data());
            for (int64_t k = 0; k < row_bytes; ++k)
                scratch.resized_rows[i * row_bytes + k] = static_cast<uint8_t>(means[k]);
        }
        image = scratch.resized_rows.data();
        height = lines;
        vertical = Filter(lines);
    }
    const Columns columns{Filter(x)};
    const int64_t stride = padded(3 * pixels), row_bytes = 3 * width;
    scratch.rows.resize(height * stride);
    std::vector<uint8_t> edge(std::max(columns.reach(), row_bytes), 0);
    std::vector<char> made(height, 0);
    for (int64_t i = 0; i < lines; ++i) {
        const int64_t first = vertical.first[i];
        for (int64_t row = first; row < first + vertical.taps[i]; ++row) {
            if (made[row]) continue;
            const uint8_t* from = image + row * row_bytes;
            if ((height - row) * row_bytes < columns.reach()) {
                std::memcpy(edge.data(), from, row_bytes);
                from = edge.data();
            }
            columns.row(from, scratch.rows.data() + row * stride);
            made[row] = 1;
        }
        mean_of_rows(scratch.rows.data() + first * stride, stride, &vertical.weights[i * vertical.stride],
                     vertical.taps[i], 3 * pixels, levels);
        finish.row(levels, nullptr, pixels, out + ((y.begin + i) * out_width + x.begin) * 3);
    }
}

}  // namespace detcore::warp
