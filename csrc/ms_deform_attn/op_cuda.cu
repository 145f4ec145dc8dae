// A few lanes of a warp, just enough to hold a head's channels in packs, serve an item.
#include <tuple>

#include "common/cuda.h"
#include "common/scatter.h"
#include "ms_deform_attn/op.h"

namespace detcore::ms_deform_attn {
namespace {

constexpr int kThreads = 256;

template <class T>
struct Operands {
    using A = Accumulator<T>;
    Shape shape;
    const T* value;
    const A *locations, *weights;
    int width;  // lanes of an item, a power of two
};

// Where a tap's corners lie, from the first channel of the level's plane on.
struct Corners {
    int64_t first, right, below;

    template <class A>
    __device__ Corners(const Shape& s, const BilinearTap<A>& tap, int level)
        : first(tap.pixel * s.pixel_stride()),
          right(tap.right() * s.pixel_stride()),
          below(tap.below(s.width[level]) * s.pixel_stride()) {}

    __device__ int64_t operator[](int i) const { return first + (i & 1 ? right : 0) + (i & 2 ? below : 0); }
};

template <class T, int count>
__global__ void __launch_bounds__(kThreads) attend(const __grid_constant__ Operands<T> in, T* out) {
    using A = Accumulator<T>;
    const Shape& s = in.shape;
    const int member = threadIdx.x % in.width, rows = kThreads / in.width;
    for (int64_t item = int64_t{blockIdx.x} * rows + threadIdx.x / in.width; item < s.items();
         item += int64_t{gridDim.x} * rows) {
        const int head = static_cast<int>(item % s.heads);
        const int64_t image = item / s.heads / s.queries;
        for (int c = member * count; c < s.channels; c += in.width * count) {
            const A* location = in.locations + item * s.samples() * 2;
            const A* weight = in.weights + item * s.samples();
            A sums[count] = {};
            for (int level = 0; level < s.levels; ++level) {
                const T* plane = in.value + s.plane(image, head, level) + c;
                for (int point = 0; point < s.points; ++point, location += 2, ++weight) {
                    const BilinearTap<A> tap = s.tap(location, level);
                    if (tap.pixel < 0) continue;
                    A weights[4];
                    tap.weights(*weight, weights);
                    const Corners corners(s, tap, level);
                    Pack<T, count> read[4];
#pragma unroll
                    for (int i = 0; i < 4; ++i) read[i] = Pack<T, count>::load(plane + corners[i]);
#pragma unroll
                    for (int i = 0; i < 4; ++i)
#pragma unroll
                        for (int e = 0; e < count; ++e)
                            sums[e] = multiply_add<A>(weights[i], widen(read[i].values[e]), sums[e]);
                }
            }
            Pack<T, count> packed;
#pragma unroll
            for (int e = 0; e < count; ++e) packed.values[e] = narrow<T>(sums[e]);
            packed.store(out + item * s.channels + c);
        }
    }
}

// One pack of a sample: adds to the products of the gradient with each corner's values, and to the value's gradient.
template <class T, int count, class Sums>
__device__ void differentiate_pack(const T* value, const T* grad, int64_t plane, const Corners& corners,
                                   const Accumulator<T> (&weights)[4], const Sums& sums, Accumulator<T> (&dots)[4]) {
    using A = Accumulator<T>;
    const auto packed = Pack<T, count>::load(grad);
    A own[count];
#pragma unroll
    for (int e = 0; e < count; ++e) own[e] = widen(packed.values[e]);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const auto corner = Pack<T, count>::load(value + plane + corners[i]);
        A terms[count];
#pragma unroll
        for (int e = 0; e < count; ++e) {
            dots[i] = multiply_add<A>(own[e], widen(corner.values[e]), dots[i]);
            terms[e] = own[e] * weights[i];
        }
        if (weights[i] != A(0)) sums.add(plane + corners[i], terms);
    }
}

template <class T, int count, class Sums>
__global__ void __launch_bounds__(kThreads)
    differentiate(const __grid_constant__ Operands<T> in, const T* grad, Sums closed, Accumulator<T>* grad_locations,
                  Accumulator<T>* grad_weights) {
    using A = Accumulator<T>;
    const Shape& s = in.shape;
    const int member = threadIdx.x % in.width, rows = kThreads / in.width;
    // The lanes of this item: they go together.
    const unsigned together =
        in.width == kWarp ? kAllLanes : ((1u << in.width) - 1) << (threadIdx.x % kWarp / in.width * in.width);
    const Sums sums = closed.open();
    for (int64_t item = int64_t{blockIdx.x} * rows + threadIdx.x / in.width; item < s.items();
         item += int64_t{gridDim.x} * rows) {
        const int head = static_cast<int>(item % s.heads);
        const int64_t image = item / s.heads / s.queries;
        int64_t at = item * s.samples();
        for (int level = 0; level < s.levels; ++level) {
            const int64_t plane = s.plane(image, head, level);
            for (int point = 0; point < s.points; ++point, ++at) {
                const BilinearTap<A> tap = s.tap(in.locations + 2 * at, level);
                const A factor = in.weights[at];
                A dots[4] = {}, value, by_y, by_x;
                if (tap.pixel >= 0) {
                    A weights[4];
                    tap.weights(factor, weights);
                    const Corners corners(s, tap, level);
                    for (int c = member * count; c < s.channels; c += in.width * count)
                        differentiate_pack<T, count>(in.value, grad + item * s.channels + c, plane + c, corners,
                                                     weights, sums, dots);
#pragma unroll
                    for (int i = 0; i < 4; ++i)
                        for (int apart = in.width / 2; apart; apart /= 2)
                            dots[i] += __shfl_xor_sync(together, dots[i], apart);
                }
                if (member > 0) continue;
                tap.derive(dots, value, by_y, by_x);
                grad_locations[2 * at] = by_x * A(s.width[level]) * factor;
                grad_locations[2 * at + 1] = by_y * A(s.height[level]) * factor;
                grad_weights[at] = value;
            }
        }
    }
}

template <int count>
int width_of(const Shape& s) {
    int width = 1;
    while (width < kWarp && width * count < s.channels) width *= 2;
    return width;
}

// Calls f with how many channels to take at a time: `count` where the layout allows.
template <int count, class T, class F>
void dispatch_pack(const Shape& s, const T* value, const T* items, const F& f) {
    if (packs(value, s.channels, count) && packs(items, s.channels, count)) {
        f(std::integral_constant<int, count>{});
    } else {
        f(std::integral_constant<int, 1>{});
    }
}

}  // namespace

Tensor forward(const Tensor& value, const Tensor& locations, const Tensor& weights, const std::vector<int64_t>& heights,
               const std::vector<int64_t>& widths) {
    const OnDevice device(value);
    const Shape s = shape_of(value, weights, heights, widths);
    const Tensor out = new_tensor_on(value, {s.batch, s.queries, s.heads * int64_t{s.channels}}, value.scalar_type());
    if (out.numel() == 0) return out;
    dispatch_float(value.scalar_type(), [&]<class T>(T) {
        using A = Accumulator<T>;
        const Tensor values = as<T>(value), places = as<A>(locations), factors = as<A>(weights);
        T* to = mutable_data<T>(out);
        dispatch_pack<kPackOf16Bytes<T>>(s, data<T>(values), to, [&]<int pack>(std::integral_constant<int, pack>) {
            const Operands<T> in{s, data<T>(values), data<A>(places), data<A>(factors), width_of<pack>(s)};
            const unsigned blocks = blocks_for(s.items(), kThreads / in.width);
            attend<T, pack><<<blocks, kThreads, 0, device.stream()>>>(in, to);
            STD_CUDA_KERNEL_LAUNCH_CHECK();
        });
    });
    return out;
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad, const Tensor& value, const Tensor& locations,
                                            const Tensor& weights, const std::vector<int64_t>& heights,
                                            const std::vector<int64_t>& widths, const std::optional<Tensor>& bound) {
    const OnDevice device(value);
    const Shape s = shape_of(value, weights, heights, widths);
    Tensor grad_value, grad_locations, grad_weights;
    dispatch_float(value.scalar_type(), [&]<class T>(T) {
        using A = Accumulator<T>;
        const Tensor grads = as<T>(grad), values = as<T>(value), places = as<A>(locations), factors = as<A>(weights);
        const std::vector<int64_t> sizes{s.batch, s.positions, s.heads, s.channels};
        Tensor sums = new_tensor_on(value, sizes, bound ? ScalarType::Long : scalar_type_of<A>());
        torch::stable::zero_(sums);
        grad_locations = torch::stable::empty_like(places);
        grad_weights = torch::stable::empty_like(factors);
        const Tensor limit = bound ? torch::stable::clone(*bound) : sums;
        const auto launch = [&]<int pack, class Sums>(std::integral_constant<int, pack>, const Sums& into) {
            const Operands<T> in{s, data<T>(values), data<A>(places), data<A>(factors), width_of<pack>(s)};
            const unsigned blocks = blocks_for(s.items(), kThreads / in.width);
            differentiate<T, pack, Sums><<<blocks, kThreads, 0, device.stream()>>>(
                in, data<T>(grads), into, mutable_data<A>(grad_locations), mutable_data<A>(grad_weights));
            STD_CUDA_KERNEL_LAUNCH_CHECK();
        };
        // As many channels as make 16 bytes in the sums, which bound the time.
        if (grad_weights.numel()) {
            dispatch_pack<kPackOf16Bytes<A>>(s, data<T>(values), data<T>(grads), [&](auto pack) {
                if (bound) {
                    launch(pack, FixedSums{mutable_data<int64_t>(sums), mutable_data<double>(limit)});
                } else {
                    launch(pack, FloatSums<A>{mutable_data<A>(sums)});
                }
            });
        }
        if (bound) {
            grad_value = new_tensor_on(value, sizes, scalar_type_of<T>());
            read_fixed_sums(sums, limit, grad_value);
        } else {
            grad_value = as<T>(sums);
        }
    });
    return {grad_value, torch::stable::to(grad_locations, locations.scalar_type()),
            torch::stable::to(grad_weights, weights.scalar_type())};
}

}  // namespace detcore::ms_deform_attn

STABLE_TORCH_LIBRARY_IMPL(detcore, CUDA, m) {
    m.impl("ms_deform_attn", TORCH_BOX(&detcore::ms_deform_attn::forward));
    m.impl("ms_deform_attn_backward", TORCH_BOX(&detcore::ms_deform_attn::backward));
}
