// Rotation, shear and what else is no plain resize: the mean of bilinear samples on a grid within each output pixel.
#pragma once

#if defined(__SSE4_1__)
#include <immintrin.h>
#endif

#include <cmath>
#include <cstring>
#include <vector>

#include "warp/finish.h"
#include "warp/op.h"
#include "warp/resize.h"

namespace detcore::warp {

// Bilinear samples at fixed places around a point are one weighted sum over a window of raw pixels, whose weights
// depend only on where within its raw pixel the point lies: they are tabulated for a grid of such phases. Near the
// border, where samples fall outside, each is taken on its own.
class Sampler {
  public:
    explicit Sampler(const double inverse[6]) : inverse_(inverse), count_(supersampling(inverse)) {
        for (int i = 0; i < count_ * count_; ++i) {
            const double dx = (i % count_ + 0.5) / count_ - 0.5, dy = (i / count_ + 0.5) / count_ - 0.5;
            offsets_.push_back({inverse[0] * dx + inverse[1] * dy, inverse[3] * dx + inverse[4] * dy});
            reach_u_ = std::max(reach_u_, std::abs(offsets_.back().u));
            reach_v_ = std::max(reach_v_, std::abs(offsets_.back().v));
        }
        low_u_ = static_cast<int>(std::floor(-reach_u_));
        low_v_ = static_cast<int>(std::floor(-reach_v_));
        columns_ = (static_cast<int>(std::floor(1 + reach_u_)) + 2 - low_u_ + 1) / 2 * 2;
        rows_ = static_cast<int>(std::floor(1 + reach_v_)) + 2 - low_v_;
        if (columns_ <= kWidestWindow && rows_ <= kWidestWindow) tabulate();
    }

    // levels and coverage: 3 numbers a pixel, of row `line` of the output.
    void row(const uint8_t* image, int64_t height, int64_t width, int64_t line, int64_t pixels, float* levels,
             float* coverage) const {
        const double y = static_cast<double>(line) + 0.5;
        for (int64_t i = 0; i < pixels; ++i, levels += 3, coverage += 3) {
            const double x = static_cast<double>(i) + 0.5;
            const double u = inverse_[0] * x + inverse_[1] * y + inverse_[2];
            const double v = inverse_[3] * x + inverse_[4] * y + inverse_[5];
            if (!(u >= -reach_u_ && v >= -reach_v_ && u <= static_cast<double>(width) + reach_u_ &&
                  v <= static_cast<double>(height) + reach_v_)) {
                for (int c = 0; c < 3; ++c) levels[c] = coverage[c] = 0;
                continue;
            }
            const auto column = static_cast<int64_t>(std::floor(u - 0.5)),
                       row = static_cast<int64_t>(std::floor(v - 0.5));
            if (phases_ && column + low_u_ >= 0 && column + low_u_ + columns_ + 1 < width && row + low_v_ >= 0 &&
                row + low_v_ + rows_ <= height) {
                const auto pu = static_cast<int>((u - 0.5 - static_cast<double>(column)) * phases_);
                const auto pv = static_cast<int>((v - 0.5 - static_cast<double>(row)) * phases_);
                const int16_t* weights = &table_[static_cast<size_t>(pv * phases_ + pu) * rows_ * columns_];
                window(image + ((row + low_v_) * width + column + low_u_) * 3, 3 * width, weights, levels);
                coverage[0] = coverage[1] = coverage[2] = 1;
            } else {
                one_by_one(image, height, width, u, v, levels, coverage);
            }
        }
    }

  private:
    struct Offset {
        double u, v;
    };
    static constexpr int kWidestWindow = 12;

    void tabulate() {
        // Half a phase is the error of a place: a 128th of a raw pixel, a 64th where many are averaged.
        phases_ = std::max(columns_, rows_) <= 6 ? 64 : 32;
        const int size = rows_ * columns_;
        table_.resize(static_cast<size_t>(phases_) * phases_ * size);
        std::vector<float> own(size);
        const float share = static_cast<float>(kOne) / static_cast<float>(offsets_.size());
        for (int phase = 0; phase < phases_ * phases_; ++phase) {
            const double pu = (phase % phases_ + 0.5) / phases_ - low_u_,
                         pv = (phase / phases_ + 0.5) / phases_ - low_v_;
            std::fill(own.begin(), own.end(), 0.0f);
            for (const Offset& offset : offsets_) {
                const auto u = static_cast<float>(pu + offset.u), v = static_cast<float>(pv + offset.v);
                const int column = static_cast<int>(u), row = static_cast<int>(v);
                const float fu = u - static_cast<float>(column), fv = v - static_cast<float>(row);
                float* at = &own[row * columns_ + column];
                at[0] += (1 - fu) * (1 - fv) * share;
                at[1] += fu * (1 - fv) * share;
                at[columns_] += (1 - fu) * fv * share;
                at[columns_ + 1] += fu * fv * share;
            }
            int16_t* weights = &table_[static_cast<size_t>(phase) * size];
            int rest = kOne, heaviest = 0;
            for (int i = 0; i < size; ++i) {
                weights[i] = static_cast<int16_t>(own[i] + 0.5f);
                rest -= weights[i];
                if (weights[i] > weights[heaviest]) heaviest = i;
            }
            weights[heaviest] = static_cast<int16_t>(weights[heaviest] + rest);
        }
    }

    void window(const uint8_t* corner, int64_t row_bytes, const int16_t* weights, float* levels) const {
#if defined(__SSE4_1__)
        const __m128i by_channel = _mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1);
        __m128i sum = _mm_set1_epi32(kOne / 2);
        for (int row = 0; row < rows_; ++row, corner += row_bytes) {
            for (int k = 0; k < columns_; k += 2, weights += 2) {
                const __m128i two =
                    _mm_shuffle_epi8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(corner + 3 * k)), by_channel);
                int32_t both;
                std::memcpy(&both, weights, sizeof(both));
                sum = _mm_add_epi32(sum, _mm_madd_epi16(two, _mm_set1_epi32(both)));
            }
        }
        float out[4];
        _mm_storeu_ps(out, _mm_cvtepi32_ps(_mm_srai_epi32(sum, kBits)));
        std::memcpy(levels, out, 3 * sizeof(float));
#else
        for (int c = 0; c < 3; ++c) {
            int32_t sum = kOne / 2;
            for (int row = 0; row < rows_; ++row)
                for (int k = 0; k < columns_; ++k)
                    sum += weights[row * columns_ + k] * corner[row * row_bytes + 3 * k + c];
            levels[c] = static_cast<float>(sum >> kBits);
        }
#endif
    }

    // A sample interpolates between the pixel centres around it, the image's border being repeated.
    void one_by_one(const uint8_t* image, int64_t height, int64_t width, double u, double v, float* levels,
                    float* coverage) const {
        float sum[3] = {0, 0, 0};
        int inside = 0;
        const auto w = static_cast<double>(width), h = static_cast<double>(height);
        for (const Offset& offset : offsets_) {
            const double su = u + offset.u, sv = v + offset.v;
            if (!(su >= 0 && su <= w && sv >= 0 && sv <= h)) continue;
            ++inside;
            const double pu = std::clamp(su - 0.5, 0.0, w - 1), pv = std::clamp(sv - 0.5, 0.0, h - 1);
            const auto column = static_cast<int64_t>(pu), row = static_cast<int64_t>(pv);
            const auto fu = static_cast<float>(pu - static_cast<double>(column));
            const auto fv = static_cast<float>(pv - static_cast<double>(row));
            const uint8_t* top = image + (row * width + column) * 3;
            const int64_t right = column + 1 < width ? 3 : 0, down = row + 1 < height ? 3 * width : 0;
            for (int c = 0; c < 3; ++c) {
                const float upper = static_cast<float>(top[c]) * (1 - fu) + static_cast<float>(top[right + c]) * fu;
                const float lower =
                    static_cast<float>(top[down + c]) * (1 - fu) + static_cast<float>(top[down + right + c]) * fu;
                sum[c] += upper * (1 - fv) + lower * fv;
            }
        }
        for (int c = 0; c < 3; ++c) {
            levels[c] = inside ? std::floor(sum[c] / static_cast<float>(inside) + 0.5f) : 0.0f;
            coverage[c] = static_cast<float>(inside) / static_cast<float>(offsets_.size());
        }
    }

    const double* inverse_;
    int count_, low_u_, low_v_, columns_, rows_, phases_ = 0;
    double reach_u_ = 0, reach_v_ = 0;
    std::vector<Offset> offsets_;
    std::vector<int16_t> table_;
};

// image (height, width, 3) into the top left content_height x content_width of out (.., out_width, 3).
template <class T>
void supersample(const uint8_t* image, int64_t height, int64_t width, const double inverse[6], int64_t content_height,
                 int64_t content_width, const Finish& finish, int64_t out_width, T* out, Scratch& scratch) {
    float* levels = scratch.level_row(3 * content_width);
    scratch.coverage.resize(3 * content_width + kMargin);
    const Sampler sampler(inverse);
    for (int64_t line = 0; line < content_height; ++line) {
        sampler.row(image, height, width, line, content_width, levels, scratch.coverage.data());
        finish.row(levels, scratch.coverage.data(), content_width, out + line * out_width * 3);
    }
}

}  // namespace detcore::warp
