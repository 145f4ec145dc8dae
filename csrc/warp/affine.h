// Rotation, shear and what else is no plain resize, on the CPU: a row of pixels at a time.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#include "warp/finish.h"
#include "warp/op.h"
#include "warp/resize.h"
#include "warp/samples.h"

namespace detcore::warp {

// Bilinear samples at fixed places around a point are one weighted sum over a window of raw pixels, whose weights
// depend only on where within its raw pixel the point lies. They are tabulated for a grid of such phases, between which
// they are interpolated. Near the border, where samples fall outside, each is taken on its own.
class Sampler {
  public:
    explicit Sampler(const double inverse[6])
        : inverse_(inverse), count_(supersampling(inverse)), reach_(reach_of(inverse, count_)) {
        for (int i = 0; i < count_ * count_; ++i) offsets_.push_back(offset_of(inverse, count_, i));
        if (!(2 * std::max(reach_.u, reach_.v) + 3 <= kWidestWindow)) return;
        low_u_ = static_cast<int>(std::floor(-reach_.u));
        low_v_ = static_cast<int>(std::floor(-reach_.v));
        columns_ = (static_cast<int>(std::floor(1 + reach_.u)) + 2 - low_u_ + kSide - 1) / kSide * kSide;
        rows_ = (static_cast<int>(std::floor(1 + reach_.v)) + 2 - low_v_ + kSide - 1) / kSide * kSide;
        // Both keep the error below a grey level on white noise: many pixels' weights change more smoothly.
        phases_ = rows_ * columns_ == kBlockSize ? 64 : 32;
        tabulate();
    }

    // levels and coverage: 3 numbers a pixel, of row `line` of the output.
    void row(const uint8_t* image, Size raw, int64_t line, int64_t pixels, float* levels, float* coverage) const {
        for (int64_t i = 0; i < pixels; ++i, levels += 3, coverage += 3) {
            const Place centre = centre_of(inverse_, line, i);
            if (!touches(centre, reach_, raw)) {
                for (int c = 0; c < 3; ++c) levels[c] = coverage[c] = 0;
                continue;
            }
            const double left = std::floor(centre.u - 0.5), top = std::floor(centre.v - 0.5);
            const int64_t column = static_cast<int64_t>(left) + low_u_, row = static_cast<int64_t>(top) + low_v_;
            // Two pixels to the right are read along.
            if (phases_ && column >= 0 && column + columns_ + 2 <= raw.width && row >= 0 && row + rows_ <= raw.height) {
                const uint8_t* corner = image + (row * raw.width + column) * 3;
                const Place within{centre.u - 0.5 - left, centre.v - 0.5 - top};
                if (rows_ * columns_ == kBlockSize) {
                    window<true>(corner, 3 * raw.width, within, levels);
                } else {
                    window<false>(corner, 3 * raw.width, within, levels);
                }
                coverage[0] = coverage[1] = coverage[2] = 1;
            } else {
                coverage[0] = coverage[1] = coverage[2] =
                    mean_of_samples(image, raw, centre, offsets_.data(), static_cast<int>(offsets_.size()), levels);
            }
        }
    }

  private:
    // Weights are kept in blocks of kSide x kSide pixels.
    static constexpr int kWidestWindow = 12, kSide = 4, kBlockSize = kSide * kSide;

    int place_in_blocks(int row, int column) const {
        const int block = row / kSide * (columns_ / kSide) + column / kSide;
        return block * kBlockSize + row % kSide * kSide + column % kSide;
    }

    // The window's weights for phases_ + 1 phases an axis, both ends included.
    void tabulate() {
        const int size = rows_ * columns_;
        table_.resize(static_cast<size_t>(phases_ + 1) * (phases_ + 1) * size);
        std::vector<float> own(size);
        std::vector<int> places(size);
        for (int i = 0; i < size; ++i) places[i] = place_in_blocks(i / columns_, i % columns_);
        const float share = static_cast<float>(kOne) / static_cast<float>(offsets_.size());
        int16_t* weights = table_.data();
        for (int phase = 0; phase < (phases_ + 1) * (phases_ + 1); ++phase, weights += size) {
            const double pu = static_cast<double>(phase % (phases_ + 1)) / phases_ - low_u_;
            const double pv = static_cast<double>(phase / (phases_ + 1)) / phases_ - low_v_;
            std::fill(own.begin(), own.end(), 0.0f);
            for (const Place& offset : offsets_) {
                const auto u = static_cast<float>(pu + offset.u), v = static_cast<float>(pv + offset.v);
                const int column = static_cast<int>(u), row = static_cast<int>(v);
                const float fu = u - static_cast<float>(column), fv = v - static_cast<float>(row);
                float* at = &own[row * columns_ + column];
                at[0] += (1 - fu) * (1 - fv) * share;
                at[1] += fu * (1 - fv) * share;
                at[columns_] += (1 - fu) * fv * share;
                at[columns_ + 1] += fu * fv * share;
            }
            int rest = kOne, heaviest = 0;
            for (int i = 0; i < size; ++i) {
                const int at = places[i];
                weights[at] = static_cast<int16_t>(own[i] + 0.5f);
                rest -= weights[at];
                if (weights[at] > weights[heaviest]) heaviest = at;
            }
            weights[heaviest] = static_cast<int16_t>(weights[heaviest] + rest);
        }
    }

    // The mean of the window from `corner` on, for a place within a raw pixel. kOneBlock: most windows are so small.
    template <bool kOneBlock>
    void window(const uint8_t* corner, int64_t row_bytes, Place within, float* levels) const {
        const int rows = kOneBlock ? kSide : rows_, columns = kOneBlock ? kSide : columns_, size = rows * columns;
        constexpr int kShareBits = 15;  // of what lies between two phases
        const auto pu = static_cast<int>(within.u * (phases_ << kShareBits));
        const auto pv = static_cast<int>(within.v * (phases_ << kShareBits));
        const int share_u = pu & ((1 << kShareBits) - 1), share_v = pv & ((1 << kShareBits) - 1);
        const int phase = (pv >> kShareBits) * (phases_ + 1) + (pu >> kShareBits);
        const int16_t* above = table_.data() + static_cast<size_t>(phase) * size;
        const int16_t* below = above + (phases_ + 1) * size;
#if defined(__AVX2__)
        const __m256i right = _mm256_set1_epi16(static_cast<int16_t>(share_u));
        const __m256i down = _mm256_set1_epi16(static_cast<int16_t>(share_v));
        __m256i sums = _mm256_setzero_si256();
        for (int row = 0; row < rows; row += kSide, corner += kSide * row_bytes) {
            for (int column = 0; column < columns; column += kSide, above += kBlockSize, below += kBlockSize) {
                const __m256i upper = between(load(above), load(above + size), right);
                const __m256i lower = between(load(below), load(below + size), right);
                sums = add_block(sums, corner + 3 * column, row_bytes, between(upper, lower, down));
            }
        }
        const __m128i half = _mm_set1_epi32(kOne / 2);
        const __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
        float out[4];
        _mm_storeu_ps(out, _mm_cvtepi32_ps(_mm_srai_epi32(_mm_add_epi32(sum, half), kBits)));
        std::memcpy(levels, out, 3 * sizeof(float));
#else
        const auto between = [](int a, int b, int share) {
            return a + (((b - a) * share + (1 << (kShareBits - 1))) >> kShareBits);
        };
        int32_t sums[3] = {kOne / 2, kOne / 2, kOne / 2};
        for (int row = 0; row < rows; ++row, corner += row_bytes) {
            for (int column = 0; column < columns; ++column) {
                const int i = place_in_blocks(row, column);
                const int weight = between(between(above[i], above[size + i], share_u),
                                           between(below[i], below[size + i], share_u), share_v);
                for (int c = 0; c < 3; ++c) sums[c] += weight * corner[3 * column + c];
            }
        }
        for (int c = 0; c < 3; ++c) levels[c] = static_cast<float>(sums[c] >> kBits);
#endif
    }

#if defined(__AVX2__)
    static __m256i load(const int16_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }

    // share: of b, in units of 2^-15.
    static __m256i between(__m256i a, __m256i b, __m256i share) {
        return _mm256_add_epi16(a, _mm256_mulhrs_epi16(_mm256_sub_epi16(b, a), share));
    }

    // Sums of the channels (r, g, b, 0), the left two and the right two columns of a block apart.
    static __m256i add_block(__m256i sums, const uint8_t* corner, int64_t row_bytes, __m256i weights) {
        const __m256i by_channel = _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,  //
                                                    6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1);
        const auto add_row = [&]<int row>(std::integral_constant<int, row>) {
            constexpr int kLeft = 2 * row, kRight = 2 * row + 1;
            const __m256i of_row = _mm256_setr_epi32(kLeft, kLeft, kLeft, kLeft, kRight, kRight, kRight, kRight);
            const __m128i pixels = _mm_loadu_si128(reinterpret_cast<const __m128i*>(corner + row * row_bytes));
            const __m256i bytes = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(pixels), by_channel);
            const __m256i pairs = _mm256_permutevar8x32_epi32(weights, of_row);
            sums = _mm256_add_epi32(sums, _mm256_madd_epi16(bytes, pairs));
        };
        add_row(std::integral_constant<int, 0>{});
        add_row(std::integral_constant<int, 1>{});
        add_row(std::integral_constant<int, 2>{});
        add_row(std::integral_constant<int, 3>{});
        return sums;
    }
#endif

    const double* inverse_;
    int count_, low_u_ = 0, low_v_ = 0, columns_ = 0, rows_ = 0;
    int phases_ = 0;  // without a table
    Place reach_;
    std::vector<Place> offsets_;
    std::vector<int16_t> table_;
};

// image into the top left of out (.., out_width, 3).
template <class T>
void supersample(const uint8_t* image, Size raw, const double inverse[6], Size content, const Finish& finish,
                 int64_t out_width, T* out, Scratch& scratch) {
    float* levels = scratch.level_row(3 * content.width);
    scratch.coverage.resize(3 * content.width + kMargin);
    const Sampler sampler(inverse);
    for (int64_t line = 0; line < content.height; ++line) {
        sampler.row(image, raw, line, content.width, levels, scratch.coverage.data());
        finish.row(levels, scratch.coverage.data(), content.width, out + line * out_width * 3);
    }
}

}  // namespace detcore::warp
