// What the samples of deformable attention read, on the CPU.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "ms_deform_attn/op.h"

namespace detcore::ms_deform_attn {

constexpr int kCacheLine = 64;  // bytes

// What one sample reads.
template <class T, class A>
struct Sample {
    T* corners[4];
    A weights[4];

    Sample(T* plane, int64_t stride, int width, const BilinearTap<A>& tap, A factor) {
        tap.weights(factor, weights);
        corners[0] = plane + tap.pixel * stride;
        corners[1] = corners[0] + tap.right() * stride;
        corners[2] = corners[0] + tap.below(width) * stride;
        corners[3] = corners[2] + tap.right() * stride;
    }
    Sample() = default;

    // Samples lie all over the map: their channels come to the cache while others are worked on.
    void prefetch(int channels) const {
        for (T* corner : corners)
            for (int c = 0; c < channels; c += kCacheLine / sizeof(T)) __builtin_prefetch(corner + c);
    }
};

// `Shape::tap` and its weights for all samples of an item, number by number and without a branch, so that the compiler
// finds several at once.
template <class A>
class ItemTaps {
  public:
    explicit ItemTaps(const Shape& s) : reads_(s.samples()) {
        for (int level = 0; level < s.levels; ++level) {
            heights_.insert(heights_.end(), s.points, s.height[level]);
            widths_.insert(widths_.end(), s.points, s.width[level]);
        }
        for (auto& pixels : pixels_) pixels.resize(reads_.size());
        for (auto& weights : weights_) weights.resize(reads_.size());
    }

    void find(const A* locations, const A* factors) {
        const int *heights = heights_.data(), *widths = widths_.data();
        int *reads = reads_.data(), *p0 = pixels_[0].data(), *p1 = pixels_[1].data();
        int *p2 = pixels_[2].data(), *p3 = pixels_[3].data();
        A *w0 = weights_[0].data(), *w1 = weights_[1].data(), *w2 = weights_[2].data(), *w3 = weights_[3].data();
        const auto count = static_cast<int64_t>(reads_.size());
#pragma GCC ivdep
        for (int64_t i = 0; i < count; ++i) {
            const int height = heights[i], width = widths[i];
            A y = locations[2 * i + 1] * A(height) - A(0.5), x = locations[2 * i] * A(width) - A(0.5);
            const int inside = (y > -1) & (y < A(height)) & (x > -1) & (x < A(width)) & (height > 0) & (width > 0);
            y = inside ? y : A(0), x = inside ? x : A(0);
            const A above = std::floor(y), left = std::floor(x), dy = y - above, dx = x - left;
            const int row = std::min(static_cast<int>(above), height - 1);
            const int column = std::min(static_cast<int>(left), width - 1);
            const A above_factor = (row >= 0 ? 1 - dy : A(0)) * factors[i];
            const A below_factor = (row + 1 < height ? dy : A(0)) * factors[i];
            const A left_share = column >= 0 ? 1 - dx : A(0), right_share = column + 1 < width ? dx : A(0);
            const int first = std::max(row, 0) * width + std::max(column, 0);
            const int right = (column >= 0) & (column + 1 < width) ? 1 : 0;
            const int below = (row >= 0) & (row + 1 < height) ? width : 0;
            reads[i] = inside;
            p0[i] = first, p1[i] = first + right, p2[i] = first + below, p3[i] = first + below + right;
            w0[i] = above_factor * left_share, w1[i] = above_factor * right_share;
            w2[i] = below_factor * left_share, w3[i] = below_factor * right_share;
        }
    }

    bool reads(int64_t i) const { return reads_[i]; }

    template <class T>
    Sample<const T, A> sample(int64_t i, const T* plane, int64_t stride) const {
        Sample<const T, A> out;
        for (int k = 0; k < 4; ++k) {
            out.corners[k] = plane + pixels_[k][i] * stride;
            out.weights[k] = weights_[k][i];
        }
        return out;
    }

  private:
    std::vector<int> reads_, heights_, widths_, pixels_[4];
    std::vector<A> weights_[4];
};

}  // namespace detcore::ms_deform_attn
