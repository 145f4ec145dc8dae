// Kernels of group norm: sums over places, and passes over the map.
#pragma once

#include <cstdint>

#include "common/cuda.h"

namespace detcore::group_norm {

constexpr int kThreads = 256;
constexpr int kGroupsOfBlock = kThreads / kWarp;  // in the kernels that finish sums

// A map (B, places, channels) in memory, and how blocks share an image of it: each takes every `chunks`-th set of
// neighbouring places. A thread keeps to a few channels.
struct Map {
    int places, channels, groups, chunks;

    __host__ __device__ int group_size() const { return channels / groups; }
};

template <int count>
struct Seat {
    int rows, row, channel;
    bool taken;

    __device__ explicit Seat(const Map& map) {
        const int packs = map.channels / count;
        rows = kThreads / packs;
        row = threadIdx.x / packs;
        channel = (threadIdx.x - row * packs) * count;
        taken = row < rows;
    }
};

// Runs over the block's places of image blockIdx.y, with the offset of the thread's channels in memory.
template <int count, class F>
__device__ void for_each_place(const Map& map, const Seat<count>& seat, const F& run) {
    if (!seat.taken) return;
    const int64_t image = int64_t{blockIdx.y} * map.places;
    for (int place = blockIdx.x * seat.rows + seat.row; place < map.places; place += map.chunks * seat.rows)
        run((image + place) * map.channels + seat.channel);
}

// Sums two numbers of each channel over the block's rows, in a fixed order, and gives them to `take(channel, a, b)`.
template <int count, class A, class F>
__device__ void sum_rows(const Map& map, const Seat<count>& seat, const A (&first)[count], const A (&second)[count],
                         const F& take) {
    __shared__ A sums[2][kThreads * count];
    if (seat.taken) {
#pragma unroll
        for (int k = 0; k < count; ++k) {
            sums[0][seat.row * map.channels + seat.channel + k] = first[k];
            sums[1][seat.row * map.channels + seat.channel + k] = second[k];
        }
    }
    __syncthreads();
    for (int c = threadIdx.x; c < map.channels; c += kThreads) {
        A a = 0, b = 0;
        for (int row = 0; row < seat.rows; ++row) {
            a += sums[0][row * map.channels + c];
            b += sums[1][row * map.channels + c];
        }
        take(c, a, b);
    }
}

// Sums of x - pivot and of its square for each block and channel: (B, chunks, channels, 2). The pivot, the group's
// first number, keeps the digits where the mean is far from 0.
template <class T, int count, class A>
__global__ void __launch_bounds__(kThreads) add_up(const T* x, Map map, A* partial) {
    const Seat<count> seat(map);
    A sum[count]{}, squares[count]{}, pivot[count]{};
    if (seat.taken) {
#pragma unroll
        for (int k = 0; k < count; ++k) {
            const int first = (seat.channel + k) / map.group_size() * map.group_size();
            pivot[k] = widen(x[int64_t{blockIdx.y} * map.places * map.channels + first]);
        }
    }
    for_each_place<count>(map, seat, [&](int64_t offset) {
        const auto own = Pack<T, count>::load(x + offset);
#pragma unroll
        for (int k = 0; k < count; ++k) {
            const A value = widen(own.values[k]) - pivot[k];
            sum[k] += value;
            squares[k] = multiply_add(value, value, squares[k]);
        }
    });
    A* to = partial + (int64_t{blockIdx.y} * map.chunks + blockIdx.x) * map.channels * 2;
    sum_rows<count>(map, seat, sum, squares, [&](int c, A a, A b) {
        to[2 * c] = a;
        to[2 * c + 1] = b;
    });
}

// Mean and 1 / standard deviation of each group: (B, groups, 2). One warp a group.
template <class T, class A>
__global__ void __launch_bounds__(kThreads) moments(const T* x, const A* partial, Map map, A eps, A* stats) {
    const int lane = threadIdx.x % kWarp, size = map.group_size();
    const A* own = partial + int64_t{blockIdx.x} * map.chunks * map.channels * 2;
    const int group = blockIdx.y * kGroupsOfBlock + threadIdx.x / kWarp;
    if (group < map.groups) {
        double sum = 0, squares = 0;
        for (int i = lane; i < map.chunks * size; i += kWarp) {
            const A* from = own + (int64_t{i / size} * map.channels + group * size + i % size) * 2;
            sum += from[0];
            squares += from[1];
        }
        for (int step = kWarp / 2; step > 0; step /= 2) {
            sum += __shfl_xor_sync(kAllLanes, sum, step);
            squares += __shfl_xor_sync(kAllLanes, squares, step);
        }
        if (lane == 0) {
            const double count = double(map.places) * size, mean = sum / count;
            const double variance = max(squares / count - mean * mean, 0.0);
            const double pivot = widen(x[int64_t{blockIdx.x} * map.places * map.channels + group * size]);
            A* to = stats + (int64_t{blockIdx.x} * map.groups + group) * 2;
            to[0] = static_cast<A>(mean + pivot);
            to[1] = static_cast<A>(1 / sqrt(variance + static_cast<double>(eps)));
        }
    }
}

// What a thread needs of its channels: y = (x - mean) * rstd * weight + bias.
template <int count, class A>
struct Channels {
    A mean[count], rstd[count], weight[count], bias[count];

    __device__ Channels(const Map& map, const Seat<count>& seat, const A* stats, const A* weights, const A* biases) {
        if (!seat.taken) return;
#pragma unroll
        for (int k = 0; k < count; ++k) {
            const int c = seat.channel + k;
            const A* own = stats + (int64_t{blockIdx.y} * map.groups + c / map.group_size()) * 2;
            mean[k] = own[0];
            rstd[k] = own[1];
            weight[k] = weights[c];
            bias[k] = biases[c];
        }
    }

    __device__ A normal(int k, A x) const { return (x - mean[k]) * rstd[k]; }
    __device__ A affine(int k, A normal) const { return multiply_add(normal, weight[k], bias[k]); }
};

template <class T, int count, bool residual, class A>
__global__ void __launch_bounds__(kThreads)
    apply(const T* x, const A* stats, const A* weight, const A* bias, const T* extra, Map map, bool relu, T* y) {
    const Seat<count> seat(map);
    const Channels<count, A> channels(map, seat, stats, weight, bias);
    for_each_place<count>(map, seat, [&](int64_t offset) {
        const auto own = Pack<T, count>::load(x + offset);
        Pack<T, count> other{}, to;
        if constexpr (residual) other = Pack<T, count>::load(extra + offset);
#pragma unroll
        for (int k = 0; k < count; ++k) {
            A value = channels.affine(k, channels.normal(k, widen(own.values[k])));
            if constexpr (residual) value += widen(other.values[k]);
            to.values[k] = narrow<T>(relu && value <= 0 ? A(0) : value);  // a NaN stays one
        }
        to.store(y + offset);
    });
}

// Sums over the places of the gradient that comes through the ReLU, and of it times the normal form: as `add_up`'s.
// With a residual, whose gradient is what comes through, that is written too; y then says what came through.
template <class T, int count, bool residual, class A>
__global__ void __launch_bounds__(kThreads)
    add_up_gradients(const T* grad, const T* x, const T* y, const A* stats, const A* weight, const A* bias, Map map,
                     bool relu, T* through, A* partial) {
    const Seat<count> seat(map);
    const Channels<count, A> channels(map, seat, stats, weight, bias);
    A sum[count]{}, products[count]{};
    for_each_place<count>(map, seat, [&](int64_t offset) {
        auto incoming = Pack<T, count>::load(grad + offset);
        const auto own = Pack<T, count>::load(x + offset);
        Pack<T, count> out{};
        if constexpr (residual) out = Pack<T, count>::load(y + offset);
#pragma unroll
        for (int k = 0; k < count; ++k) {
            const A normal = channels.normal(k, widen(own.values[k]));
            const A value = residual ? A(widen(out.values[k])) : channels.affine(k, normal);
            if (relu && value <= 0) incoming.values[k] = narrow<T>(A(0));
            const A g = widen(incoming.values[k]);
            sum[k] += g;
            products[k] = multiply_add(g, normal, products[k]);
        }
        if constexpr (residual) incoming.store(through + offset);
    });
    A* to = partial + (int64_t{blockIdx.y} * map.chunks + blockIdx.x) * map.channels * 2;
    sum_rows<count>(map, seat, sum, products, [&](int c, A a, A b) {
        to[2 * c] = a;
        to[2 * c + 1] = b;
    });
}

// Over the blocks: of each image and channel (B, channels, 2), and of each group, times the weights (B, groups, 2).
template <class A>
__global__ void __launch_bounds__(kThreads)
    finish_sums(const A* partial, const A* weight, Map map, A* of_channels, A* of_groups) {
    const A* own = partial + int64_t{blockIdx.x} * map.chunks * map.channels * 2;
    A* channels = of_channels + int64_t{blockIdx.x} * map.channels * 2;
    const int size = map.group_size(), first = blockIdx.y * kGroupsOfBlock;
    const int last = min(first + kGroupsOfBlock, map.groups);
    for (int i = 2 * first * size + threadIdx.x; i < 2 * last * size; i += kThreads) {
        A sum = 0;
        for (int chunk = 0; chunk < map.chunks; ++chunk) sum += own[int64_t{chunk} * map.channels * 2 + i];
        channels[i] = sum;
    }
    __syncthreads();
    for (int i = 2 * first + threadIdx.x; i < 2 * last; i += kThreads) {
        A sum = 0;
        for (int c = i / 2 * size; c < (i / 2 + 1) * size; ++c) sum += weight[c] * channels[2 * c + i % 2];
        of_groups[int64_t{blockIdx.x} * map.groups * 2 + i] = sum;
    }
}

// grad: what comes through already where `through`, else what comes in.
template <class T, int count, bool through, class A>
__global__ void __launch_bounds__(kThreads) spread(const T* grad, const T* x, const A* stats, const A* weight,
                                                   const A* bias, const A* sums, Map map, bool relu, T* grad_x) {
    const Seat<count> seat(map);
    const Channels<count, A> channels(map, seat, stats, weight, bias);
    A offset_of[count]{}, slope_of[count]{};
    if (seat.taken) {
        const A number = A(map.places) * map.group_size();
#pragma unroll
        for (int k = 0; k < count; ++k) {
            const A* own = sums + (int64_t{blockIdx.y} * map.groups + (seat.channel + k) / map.group_size()) * 2;
            offset_of[k] = own[0] / number;
            slope_of[k] = own[1] / number;
        }
    }
    for_each_place<count>(map, seat, [&](int64_t offset) {
        const auto incoming = Pack<T, count>::load(grad + offset);
        const auto own = Pack<T, count>::load(x + offset);
        Pack<T, count> to;
#pragma unroll
        for (int k = 0; k < count; ++k) {
            const A normal = channels.normal(k, widen(own.values[k]));
            A g = widen(incoming.values[k]);
            if (!through && relu && channels.affine(k, normal) <= 0) g = 0;
            const A centred = multiply_add(g, channels.weight[k], -offset_of[k]);
            to.values[k] = narrow<T>(channels.rstd[k] * multiply_add(-normal, slope_of[k], centred));
        }
        to.store(grad_x + offset);
    });
}

}  // namespace detcore::group_norm
