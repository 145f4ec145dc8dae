// Sums at places that many threads add to, on the GPU: quick in floating point, or in fixed point, where the order of
// the additions does not show.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/cuda.h"
#include "common/numeric.h"

namespace detcore {

#if __CUDA_ARCH__ >= 900
constexpr bool kHasVectorAtomics = true;
#else
constexpr bool kHasVectorAtomics = false;
#endif

// Floating-point sums, whose last bits depend on the order in which threads come.
template <class A>
struct FloatSums {
    A* sums;

    __device__ FloatSums open() const { return *this; }

    template <int count>
    __device__ void add(int64_t at, const A (&terms)[count]) const {
        constexpr int step = kHasVectorAtomics && std::is_same_v<A, float> && count % 4 == 0 ? 4 : 1;
#pragma unroll
        for (int i = 0; i < count; i += step) {
            if constexpr (step == 4) {
                atomicAdd(reinterpret_cast<float4*>(sums + at + i),
                          make_float4(terms[i], terms[i + 1], terms[i + 2], terms[i + 3]));
            } else {
                atomicAdd(sums + at + i, terms[i]);
            }
        }
    }
};

// Binary digits after the point that keep sums up to `bound` within 62 bits.
inline __device__ int fixed_point_digits(double bound) {
    if (!(bound > 0) || isinf(bound)) return 0;
    return min(61 - ilogb(bound), 1000);
}

// Sums of 64-bit integers. `bound` is no less than any sum's magnitude; a term that is not finite makes it NaN, and
// with it all sums.
struct FixedSums {
    int64_t* sums;
    double* bound;
    double scale = 1;

    __device__ FixedSums open() const {
        return {sums, bound, ldexp(1.0, fixed_point_digits(*static_cast<volatile double*>(bound)))};
    }

    template <class A, int count>
    __device__ void add(int64_t at, const A (&terms)[count]) const {
#pragma unroll
        for (int i = 0; i < count; ++i) {
            if (isfinite(terms[i])) {
                const long long term = __double2ll_rn(static_cast<double>(terms[i]) * scale);
                atomicAdd(reinterpret_cast<unsigned long long*>(sums + at + i), static_cast<unsigned long long>(term));
            } else {
                *static_cast<volatile double*>(bound) = nan("");
            }
        }
    }
};

namespace scatter {

template <class T>
__global__ void read_fixed(const int64_t* sums, const double* bound, int64_t count, T* out) {
    const double unit = isfinite(*bound) ? ldexp(1.0, -fixed_point_digits(*bound)) : nan("");
    for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x)
        out[i] = narrow<T>(static_cast<Accumulator<T>>(static_cast<double>(sums[i]) * unit));
}

}  // namespace scatter

// Writes the values of fixed-point sums to `out`, a dense tensor of the same order in memory.
inline void read_fixed_sums(const Tensor& sums, const Tensor& bound, const Tensor& out) {
    const OnDevice device(out);
    const int64_t count = out.numel();
    if (count == 0) return;
    dispatch_float(out.scalar_type(), [&]<class T>(T) {
        scatter::read_fixed<<<blocks_for(count, 256), 256, 0, device.stream()>>>(
            data<int64_t>(sums), data<double>(bound), count, mutable_data<T>(out));
        STD_CUDA_KERNEL_LAUNCH_CHECK();
    });
}

}  // namespace detcore
