// The horizontal pass of a resize: a row of pixels to a row of fewer or more.
#pragma once

#if defined(__SSE4_1__)
#include <immintrin.h>
#endif

#include <cstring>
#include <vector>

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
#if defined(__AVX2__)
        if (!copies_) gather();
#endif
    }

    // Bytes that are read from a row's beginning on.
    int64_t reach() const { return reach_; }

    // Writes 3 bytes a pixel, and up to 31 more.
    void row(const uint8_t* from, uint8_t* to) const {
        const auto count = static_cast<int64_t>(first_.size());
        if (copies_) {
            std::memcpy(to, from + 3 * first_[0], 3 * count);
#if defined(__AVX2__)
        } else if (!steps_.empty()) {
            values(from, to);
#endif
        } else {
            pixels(from, to, count);
        }
    }

  private:
    // A pixel at a time.
    void pixels(const uint8_t* from, uint8_t* to, int64_t count) const {
        const int16_t* own = coefficients_.data();
        for (int64_t i = 0; i < count; ++i, to += 3, own += 2 * pairs_) {
            const uint8_t* pixel = from + 3 * first_[i];
#if defined(__SSE4_1__)
            const __m128i by_channel = _mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1);
            __m128i sum = _mm_set1_epi32(kOne / 2);
            for (int k = 0; k < pairs_; ++k) {
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
                for (int k = 0; k < 2 * pairs_; ++k) sum += own[k] * pixel[3 * k + c];
                to[c] = static_cast<uint8_t>(std::clamp(sum >> kBits, 0, 255));
            }
#endif
        }
    }

#if defined(__AVX2__)
    static constexpr int kLane = 4, kLanes = 2;  // values of a lane of 16 bytes, lanes of a vector
    static constexpr int kVectors = 4, kAtOnce = kVectors * kLanes * kLane;

    // What a vector of values takes of one pair of taps: which of the 16 raw bytes from its lane's base on, and their
    // weights.
    struct alignas(32) Step {
        int8_t bytes[kLanes][4 * kLane];
        int16_t weights[kLanes][2 * kLane];
    };

    // Lays out the steps, pair by pair for each 32 values; none if a lane's bytes lie too far apart, as they do where
    // an image shrinks a lot.
    void gather() {
        const auto count = 3 * static_cast<int64_t>(first_.size());
        const int64_t blocks = (count + kAtOnce - 1) / kAtOnce;
        steps_.assign(blocks * pairs_ * kVectors, {});
        bases_.assign(steps_.size() * kLanes, 0);
        for (int64_t block = 0; block < blocks; ++block)
            for (int pair = 0; pair < pairs_; ++pair)
                for (int at = 0; at < kVectors * kLanes; ++at) {
                    const int64_t first = block * kAtOnce + at * kLane;
                    const int64_t place = (block * pairs_ + pair) * kVectors * kLanes + at;
                    if (!gather_lane(first, std::min(first + kLane, count), pair, place)) return steps_.clear();
                }
    }

    bool gather_lane(int64_t first, int64_t last, int pair, int64_t lane) {
        const auto place = [&](int64_t value) { return 3 * (first_[value / 3] + 2 * pair) + value % 3; };
        if (first >= last) return true;
        int64_t base = place(first);
        for (int64_t value = first; value < last; ++value) base = std::min(base, place(value));
        bases_[lane] = static_cast<int32_t>(base);
        reach_ = std::max(reach_, base + 4 * kLane);
        Step& step = steps_[lane / kLanes];
        for (int64_t value = first; value < last; ++value) {
            const int64_t i = value - first, offset = place(value) - base;
            if (offset + 3 >= 4 * kLane) return false;
            for (int tap = 0; tap < 2; ++tap) {
                step.bytes[lane % kLanes][4 * i + 2 * tap] = static_cast<int8_t>(offset + 3 * tap);
                step.bytes[lane % kLanes][4 * i + 2 * tap + 1] = -1;  // a zero
                step.weights[lane % kLanes][2 * i + tap] = coefficients_[(value / 3 * pairs_ + pair) * 2 + tap];
            }
        }
        return true;
    }

    // 32 values at a time, whatever pixels they belong to.
    void values(const uint8_t* from, uint8_t* to) const {
        const int32_t* base = bases_.data();
        const auto raw = [&](int32_t at) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + at)); };
        const auto load = [](const void* at) { return _mm256_load_si256(static_cast<const __m256i*>(at)); };
        for (const Step *step = steps_.data(), *end = step + steps_.size(); step != end; to += kAtOnce) {
            __m256i sums[kVectors];
            for (__m256i& sum : sums) sum = _mm256_set1_epi32(kOne / 2);
            for (int pair = 0; pair < pairs_; ++pair) {
                for (int v = 0; v < kVectors; ++v, ++step, base += kLanes) {
                    const __m256i bytes = _mm256_set_m128i(raw(base[1]), raw(base[0]));
                    const __m256i taps = _mm256_shuffle_epi8(bytes, load(step->bytes));
                    sums[v] = _mm256_add_epi32(sums[v], _mm256_madd_epi16(taps, load(step->weights)));
                }
            }
            for (__m256i& sum : sums) sum = _mm256_srai_epi32(sum, kBits);
            const __m256i bytes =
                _mm256_packus_epi16(_mm256_packs_epi32(sums[0], sums[1]), _mm256_packs_epi32(sums[2], sums[3]));
            const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permutevar8x32_epi32(bytes, in_order));
        }
    }

    std::vector<Step> steps_;
    std::vector<int32_t> bases_;
#endif

    std::vector<int64_t> first_;
    std::vector<int16_t> coefficients_;
    int pairs_ = 1;
    int64_t reach_ = 0;
    bool copies_;
};

}  // namespace detcore::warp
