// Circles in float around rotated boxes, for a GPU: most pairs are told apart by them.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "rotated/op.h"

namespace detcore::rotated {

// Large enough that no rounding parts boxes whose circles meet. The radius is NaN for a box that meets none.
struct Circle {
    float x, y, radius;
};

inline __device__ Circle no_circle() {
    return {0, 0, __int_as_float(0x7fffffff)};
}

inline __device__ Circle circle_of(const Frame& frame) {
    if (!usable(frame)) return no_circle();
    const double far = std::abs(frame.x) + std::abs(frame.y), own = radius(frame);
    // Beyond this floats could overflow: such a box is near to all.
    if (!(far < 1e15 && own < 1e15)) return {0, 0, 1e18f};
    return {static_cast<float>(frame.x), static_cast<float>(frame.y),
            __double2float_ru(own * (1 + 1e-6) + far * 1.2e-7 + 1e-30)};
}

inline __device__ bool near(const Circle& a, const Circle& b) {
    const float dx = a.x - b.x, dy = a.y - b.y, reach = a.radius + b.radius;
    return fmaf(dx, dx, dy * dy) <= reach * reach;
}

// The box at an index of a tensor (..., 5) of floats or doubles.
struct Boxes {
    const void* values;
    bool doubles;

    __device__ Box operator[](int64_t index) const { return doubles ? at<double>(index) : at<float>(index); }

  private:
    template <class T>
    __device__ Box at(int64_t index) const {
        const T* box = static_cast<const T*>(values) + 5 * index;
        return {static_cast<double>(box[0]), static_cast<double>(box[1]), static_cast<double>(box[2]),
                static_cast<double>(box[3]), static_cast<double>(box[4])};
    }
};

}  // namespace detcore::rotated
