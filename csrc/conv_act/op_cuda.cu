// What follows a convolution, in one pass over its output: a bias, a residual and a ReLU.
#include <cstdint>
#include <optional>

#include "common/cuda.h"

namespace detcore::conv_act {
namespace {

constexpr int kThreads = 256;

// Of the output, (B, height, width, channels) in memory.
struct Map {
    int64_t rows;  // B * height
    int height, width, channels;
};

enum class Residual { kNone, kSame, kHalf };  // kHalf: of half the height and width, each pixel taken four times

template <class T, int count, Residual kind, class A = Accumulator<T>>
__global__ void __launch_bounds__(kThreads)
    finish(const T* x, const A* bias, const T* residual, Map map, bool relu, T* out) {
    using Own = Pack<T, count>;
    const unsigned packs = map.channels / count, row_packs = map.width * packs;
    for (int64_t row = blockIdx.y; row < map.rows; row += gridDim.y) {
        const int64_t begin = row * map.width * map.channels;
        const int64_t image = row / map.height, y = row % map.height;
        const int64_t coarse = (image * (map.height / 2) + y / 2) * (map.width / 2) * map.channels;
        for (unsigned i = blockIdx.x * kThreads + threadIdx.x; i < row_packs; i += gridDim.x * kThreads) {
            const unsigned column = i / packs, channel = (i - column * packs) * count;
            const int64_t place = begin + int64_t{i} * count;
            const Own from = Own::load(x + place);
            Own other{}, to;
            if constexpr (kind == Residual::kSame) other = Own::load(residual + place);
            if constexpr (kind == Residual::kHalf)
                other = Own::load(residual + coarse + int64_t{column / 2} * map.channels + channel);
#pragma unroll
            for (int k = 0; k < count; ++k) {
                A value = widen(from.values[k]) + bias[channel + k];
                if constexpr (kind != Residual::kNone) value += widen(other.values[k]);
                to.values[k] = narrow<T>(relu && value <= 0 ? A(0) : value);  // a NaN stays one
            }
            to.store(out + place);
        }
    }
}

dim3 grid_of(const Map& map, int count) {
    const int64_t row_packs = int64_t{map.width} * map.channels / count;
    return dim3(blocks_for(row_packs, kThreads), static_cast<unsigned>(std::min<int64_t>(map.rows, 65535)));
}

template <class T, int count, Residual kind>
void launch(const Tensor& x, const Tensor& bias, const T* residual, Map map, bool relu, const Tensor& out,
            cudaStream_t stream) {
    finish<T, count, kind><<<grid_of(map, count), kThreads, 0, stream>>>(data<T>(x), data<Accumulator<T>>(bias),
                                                                         residual, map, relu, mutable_data<T>(out));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// The gradient of a residual of half the size: each of its pixels sums the four that it was taken for.
template <class T, int count>
__global__ void __launch_bounds__(kThreads) add_four(const T* grad, Map map, T* out) {
    const unsigned packs = map.channels / count, row_packs = map.width * packs;
    const int64_t stride = int64_t{2} * map.width * map.channels;  // of a row of `grad`
    for (int64_t row = blockIdx.y; row < map.rows; row += gridDim.y) {
        for (unsigned i = blockIdx.x * kThreads + threadIdx.x; i < row_packs; i += gridDim.x * kThreads) {
            const unsigned column = i / packs, channel = (i - column * packs) * count;
            const T* from = grad + 2 * row * stride + int64_t{2} * column * map.channels + channel;
            Accumulator<T> sum[count]{};
#pragma unroll
            for (int quarter = 0; quarter < 4; ++quarter) {
                const auto own = Pack<T, count>::load(from + quarter / 2 * stride + quarter % 2 * map.channels);
#pragma unroll
                for (int k = 0; k < count; ++k) sum[k] += widen(own.values[k]);
            }
            Pack<T, count> to;
#pragma unroll
            for (int k = 0; k < count; ++k) to.values[k] = narrow<T>(sum[k]);
            to.store(out + (row * map.width + column) * map.channels + channel);
        }
    }
}

}  // namespace

// grad is channels_last, of even height and width.
Tensor sum_quads(const Tensor& grad) {
    const int64_t height = grad.size(2) / 2, width = grad.size(3) / 2;
    const Tensor out = new_tensor_on(grad, {grad.size(0), grad.size(1), height, width}, grad.scalar_type(), true);
    if (out.numel() == 0) return out;
    const OnDevice device(grad);
    const Map map{grad.size(0) * height, static_cast<int>(height), static_cast<int>(width),
                  static_cast<int>(grad.size(1))};
    dispatch_float(grad.scalar_type(), [&]<class T>(T) {
        constexpr int kWide = kPackOf16Bytes<T>;
        const bool wide = packs(data<T>(grad), map.channels, kWide) && packs(mutable_data<T>(out), map.channels, kWide);
        const auto run = [&]<int count>(std::integral_constant<int, count>) {
            add_four<T, count>
                <<<grid_of(map, count), kThreads, 0, device.stream()>>>(data<T>(grad), map, mutable_data<T>(out));
            STD_CUDA_KERNEL_LAUNCH_CHECK();
        };
        wide ? run(std::integral_constant<int, kWide>{}) : run(std::integral_constant<int, 1>{});
    });
    return out;
}

Tensor finish_conv(const Tensor& x, const Tensor& bias, const std::optional<Tensor>& residual, bool relu) {
    const Tensor out = new_tensor_on(x, {x.size(0), x.size(1), x.size(2), x.size(3)}, x.scalar_type(), true);
    if (x.numel() == 0) return out;
    const OnDevice device(x);
    const Map map{x.size(0) * x.size(2), static_cast<int>(x.size(2)), static_cast<int>(x.size(3)),
                  static_cast<int>(x.size(1))};
    dispatch_float(x.scalar_type(), [&]<class T>(T) {
        constexpr int kWide = kPackOf16Bytes<T>;
        const Tensor own_bias = as<Accumulator<T>>(bias);
        const T* extra = residual ? data<T>(*residual) : nullptr;
        const bool wide = packs(data<T>(x), map.channels, kWide) && packs(mutable_data<T>(out), map.channels, kWide) &&
                          (!extra || packs(extra, map.channels, kWide));
        const auto run = [&]<int count>(std::integral_constant<int, count>) {
            if (!extra)
                launch<T, count, Residual::kNone>(x, own_bias, extra, map, relu, out, device.stream());
            else if (residual->size(2) == x.size(2) && residual->size(3) == x.size(3))
                launch<T, count, Residual::kSame>(x, own_bias, extra, map, relu, out, device.stream());
            else
                launch<T, count, Residual::kHalf>(x, own_bias, extra, map, relu, out, device.stream());
        };
        wide ? run(std::integral_constant<int, kWide>{}) : run(std::integral_constant<int, 1>{});
    });
    return out;
}

}  // namespace detcore::conv_act

STABLE_TORCH_LIBRARY_IMPL(detcore, CUDA, m) {
    m.impl("finish_conv", TORCH_BOX(&detcore::conv_act::finish_conv));
    m.impl("sum_quads", TORCH_BOX(&detcore::conv_act::sum_quads));
}
