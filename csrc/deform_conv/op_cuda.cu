// A warp takes one tap of a few neighbouring positions: first each lane finds out where one of the positions reads,
// whose offsets lie side by side in memory; then `width` lanes together go through the channels of one position, in
// packs.
#include <optional>

#include "common/cuda.h"
#include "common/scatter.h"
#include "deform_conv/shape.h"

namespace detcore::deform_conv {
namespace {

constexpr int kThreads = 256;
constexpr int kFewestPositions = 8;  // 32 bytes of offsets

template <class T>
struct Operands {
    using A = Accumulator<T>;
    Shape shape;
    const T* input;
    const A *offset, *mask;

    __device__ A factor(Place at, int tap) const { return mask ? mask[shape.mask_index(at, tap)] : A(1); }
};

// How the positions of a call are shared out to warps and lanes.
struct Division {
    int width;       // lanes that go through a position's channels, a power of two
    int positions;   // of a warp at a time, a multiple of 32 / width
    unsigned items;  // (block of positions, tap), the tap running faster
};

template <class A>
__device__ BilinearTap<A> from_lane(const BilinearTap<A>& own, int lane) {
    return {__shfl_sync(kAllLanes, static_cast<long long>(own.pixel), lane), __shfl_sync(kAllLanes, own.inside, lane),
            __shfl_sync(kAllLanes, own.y, lane), __shfl_sync(kAllLanes, own.x, lane)};
}

// Where a tap's corners lie in the input.
struct Corners {
    int64_t first;
    int right, below;

    template <class A>
    __device__ Corners(const Shape& s, const BilinearTap<A>& tap)
        : first(tap.pixel * s.channels),
          right(static_cast<int>(tap.right()) * s.channels),
          below(static_cast<int>(tap.below(s.width)) * s.channels) {}

    __device__ int64_t operator[](int i) const { return first + (i & 1 ? right : 0) + (i & 2 ? below : 0); }
};

// f(start, tap, place, own, factor) for each item of this warp: its positions begin at `start`, and that of this lane,
// if it has one, is at `place` and reads as `own` says.
template <class T, class F>
__device__ void for_each_item(const Operands<T>& in, const Division& division, const F& f) {
    using A = Accumulator<T>;
    const int lane = threadIdx.x % kWarp;
    const unsigned taps = in.shape.taps(), num_warps = gridDim.x * (kThreads / kWarp);
    for (unsigned item = blockIdx.x * (kThreads / kWarp) + threadIdx.x / kWarp; item < division.items;
         item += num_warps) {
        const int start = static_cast<int>(item / taps) * division.positions, tap = static_cast<int>(item % taps);
        BilinearTap<A> own{-1, 0, A(0), A(0)};
        A factor = 0;
        Place place{-1, 0};
        if (lane < division.positions && start + lane < in.shape.count) {
            place = in.shape.place(start + lane);
            own = in.shape.tap(in.offset, place, tap);
            factor = in.factor(place, tap);
        }
        f(start, tap, place, own, factor);
    }
}

template <class T, int count>
__global__ void __launch_bounds__(kThreads) sample(Operands<T> in, Division division, T* columns) {
    using A = Accumulator<T>;
    const int lane = threadIdx.x % kWarp, rows = kWarp / division.width;
    const int row = lane / division.width, member = lane % division.width;
    const Shape& s = in.shape;
    for_each_item(in, division, [&](int start, int j, Place, const BilinearTap<A>& own, A own_factor) {
        const int begin = s.first_channel(j), end = begin + s.channels_of_tap();
        for (int step = row; step < division.positions; step += rows) {
            const BilinearTap<A> tap = from_lane(own, step);
            const A factor = __shfl_sync(kAllLanes, own_factor, step);
            if (start + step >= s.count) continue;
            A weights[4];
            tap.weights(factor, weights);
            const Corners corners(s, tap);
            const int64_t to = s.column_row(start + step, j);
            for (int c = begin + member * count; c < end; c += division.width * count) {
                A sums[count] = {};
                if (tap.pixel >= 0) {
                    Pack<T, count> read[4];
#pragma unroll
                    for (int i = 0; i < 4; ++i) read[i] = Pack<T, count>::load(in.input + corners[i] + c);
#pragma unroll
                    for (int i = 0; i < 4; ++i)
#pragma unroll
                        for (int e = 0; e < count; ++e)
                            sums[e] = multiply_add<A>(weights[i], widen(read[i].values[e]), sums[e]);
                }
                Pack<T, count> column;
#pragma unroll
                for (int e = 0; e < count; ++e) column.values[e] = narrow<T>(sums[e]);
                column.store(columns + s.column_index(to, c));
            }
        }
    });
}

template <class A>
struct Gradients {
    A *offset, *mask;  // or null
};

// One pack of a tap's channels, from c on: adds to the products of the gradient with each corner's values, to the
// input's gradient, and puts the samples in place of their gradients.
template <class T, int count, class Sums>
__device__ void differentiate_pack(const T* input, const Corners& corners, int c, const Accumulator<T> (&weights)[4],
                                   T* column, const Sums& sums, Accumulator<T> (&dots)[4]) {
    using A = Accumulator<T>;
    const auto packed = Pack<T, count>::load(column);
    A grad[count], samples[count] = {};
#pragma unroll
    for (int e = 0; e < count; ++e) grad[e] = widen(packed.values[e]);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const auto corner = Pack<T, count>::load(input + corners[i] + c);
        A terms[count];
#pragma unroll
        for (int e = 0; e < count; ++e) {
            const A value = widen(corner.values[e]);
            dots[i] = multiply_add<A>(grad[e], value, dots[i]);
            samples[e] = multiply_add<A>(weights[i], value, samples[e]);
            terms[e] = grad[e] * weights[i];
        }
        if (sums.sums && weights[i] != A(0)) sums.add(corners[i] + c, terms);
    }
    Pack<T, count> out;
#pragma unroll
    for (int e = 0; e < count; ++e) out.values[e] = narrow<T>(samples[e]);
    out.store(column);
}

template <class T, int count, class Sums>
__global__ void __launch_bounds__(kThreads, sizeof(T) > 4 ? 2 : 3)
    differentiate(Operands<T> in, Division division, T* columns, Sums closed, Gradients<Accumulator<T>> grads) {
    using A = Accumulator<T>;
    const int lane = threadIdx.x % kWarp, rows = kWarp / division.width;
    const int row = lane / division.width, member = lane % division.width;
    const Shape& s = in.shape;
    const Sums sums = closed.open();
    for_each_item(in, division, [&](int start, int j, Place place, const BilinearTap<A>& own, A own_factor) {
        const int begin = s.first_channel(j), end = begin + s.channels_of_tap();
        A own_dots[4] = {};
        for (int step = row; step < division.positions; step += rows) {
            const BilinearTap<A> tap = from_lane(own, step);
            const A factor = __shfl_sync(kAllLanes, own_factor, step);
            A dots[4] = {};
            if (start + step < s.count) {
                A weights[4];
                tap.weights(factor, weights);
                const Corners corners(s, tap);
                const int64_t at = s.column_row(start + step, j);
                for (int c = begin + member * count; c < end; c += division.width * count) {
                    T* column = columns + s.column_index(at, c);
                    if (tap.pixel >= 0) {
                        differentiate_pack<T, count>(in.input, corners, c, weights, column, sums, dots);
                    } else {
                        Pack<T, count>{}.store(column);
                    }
                }
            }
            // Every lane of a position gets the sums; the one that the position belongs to takes them.
            const bool takes = lane / rows == step / rows;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                for (int apart = division.width / 2; apart; apart /= 2)
                    dots[i] += __shfl_xor_sync(kAllLanes, dots[i], apart);
                const A sum = __shfl_sync(kAllLanes, dots[i], lane % rows * division.width);
                if (takes) own_dots[i] = sum;
            }
        }
        if (place.image < 0) return;
        A value, by_y, by_x;
        own.derive(own_dots, value, by_y, by_x);
        if (grads.offset) {
            A* to = grads.offset + s.offset_index(place, j);
            to[0] = by_y * own_factor;
            to[s.out_area()] = by_x * own_factor;
        }
        if (grads.mask) grads.mask[s.mask_index(place, j)] = value;
    });
}

template <int count>
Division divide(const Shape& s) {
    int width = 1;
    while (width < kWarp && width * count < s.channels_of_tap()) width *= 2;
    const int positions = std::max(kFewestPositions, kWarp / width);
    const int64_t items = (int64_t{s.count} + positions - 1) / positions * s.taps();
    return {width, positions, static_cast<unsigned>(items)};
}

// Calls f with how many channels to take at a time: `count` where the layout allows.
template <int count, class T, class F>
void dispatch_pack(const Shape& s, const T* input, const T* columns, const F& f) {
    if (s.channels_of_tap() % count == 0 && packs(input, s.channels / s.groups, count) &&
        packs(columns, s.channels / s.groups, count)) {
        f(std::integral_constant<int, count>{});
    } else {
        f(std::integral_constant<int, 1>{});
    }
}

template <class A>
A* pointer(const std::optional<Tensor>& tensor) {
    return tensor ? mutable_data<A>(*tensor) : nullptr;
}

}  // namespace

Tensor columns(const Tensor& input, const Tensor& offset, const std::optional<Tensor>& mask,
               const std::vector<int64_t>& kernel, const std::vector<int64_t>& stride,
               const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation, int64_t groups, int64_t first,
               int64_t count) {
    const OnDevice device(input);
    const Shape s = shape_of(input, offset, kernel, stride, padding, dilation, groups, first, count);
    const Tensor out =
        new_tensor_on(input, {groups, count, s.taps_of_group() * (s.channels / groups)}, input.scalar_type());
    if (out.numel() == 0) return out;
    const Tensor images = torch::stable::contiguous(input, MemoryFormat::ChannelsLast);
    dispatch_float(input.scalar_type(), [&]<class T>(T) {
        using A = Accumulator<T>;
        const Tensor offsets = as<A>(offset), masks = mask ? as<A>(*mask) : offsets;
        const Operands<T> in{s, data<T>(images), data<A>(offsets), mask ? data<A>(masks) : nullptr};
        T* to = mutable_data<T>(out);
        dispatch_pack<kPackOf16Bytes<T>>(s, in.input, to, [&]<int pack>(std::integral_constant<int, pack>) {
            const Division division = divide<pack>(s);
            sample<T, pack>
                <<<blocks_for(division.items, kThreads / kWarp), kThreads, 0, device.stream()>>>(in, division, to);
            STD_CUDA_KERNEL_LAUNCH_CHECK();
        });
    });
    return out;
}

void columns_backward(Tensor columns, const Tensor& input, const Tensor& offset, const std::optional<Tensor>& mask,
                      std::optional<Tensor> grad_input, std::optional<Tensor> grad_offset,
                      std::optional<Tensor> grad_mask, std::optional<Tensor> bound, const std::vector<int64_t>& kernel,
                      const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                      const std::vector<int64_t>& dilation, int64_t groups, int64_t first, int64_t count) {
    if (columns.numel() == 0) return;
    const OnDevice device(input);
    const Shape s = shape_of(input, offset, kernel, stride, padding, dilation, groups, first, count);
    const Tensor images = torch::stable::contiguous(input, MemoryFormat::ChannelsLast);
    dispatch_float(input.scalar_type(), [&]<class T>(T) {
        using A = Accumulator<T>;
        const Tensor offsets = as<A>(offset), masks = mask ? as<A>(*mask) : offsets;
        const Operands<T> in{s, data<T>(images), data<A>(offsets), mask ? data<A>(masks) : nullptr};
        const Gradients<A> grads{pointer<A>(grad_offset), pointer<A>(grad_mask)};
        T* own = mutable_data<T>(columns);
        // As many as make 16 bytes in the sums, which bound the time.
        dispatch_pack<kPackOf16Bytes<A>>(s, in.input, own, [&]<int pack>(std::integral_constant<int, pack>) {
            const Division division = divide<pack>(s);
            const unsigned blocks = blocks_for(division.items, kThreads / kWarp);
            if (bound) {
                const FixedSums sums{pointer<int64_t>(grad_input), mutable_data<double>(*bound)};
                differentiate<T, pack><<<blocks, kThreads, 0, device.stream()>>>(in, division, own, sums, grads);
            } else {
                const FloatSums<A> sums{pointer<A>(grad_input)};
                differentiate<T, pack><<<blocks, kThreads, 0, device.stream()>>>(in, division, own, sums, grads);
            }
            STD_CUDA_KERNEL_LAUNCH_CHECK();
        });
    });
}

}  // namespace detcore::deform_conv

STABLE_TORCH_LIBRARY_IMPL(detcore, CUDA, m) {
    m.impl("deform_columns", TORCH_BOX(&detcore::deform_conv::columns));
    m.impl("deform_columns_backward", TORCH_BOX(&detcore::deform_conv::columns_backward));
}
