// Group norm of channels_last maps with what follows it, a residual and a ReLU: two passes forward, two backward.
#include <cstdint>
#include <optional>
#include <tuple>

#include "common/cuda.h"
#include "group_norm/kernels.h"

namespace detcore::group_norm {
namespace {

Map map_of(const Tensor& x, int64_t groups, int count) {
    Map map{static_cast<int>(x.size(2) * x.size(3)), static_cast<int>(x.size(1)), static_cast<int>(groups), 1};
    const int rows = kThreads / (map.channels / count);
    // Enough blocks to fill the device, with some places for each thread.
    const int64_t most = std::max<int64_t>(1, 1056 / std::max<int64_t>(x.size(0), 1));
    map.chunks = static_cast<int>(std::min<int64_t>((map.places + 4 * rows - 1) / (4 * rows), most));
    return map;
}

// Of the kernels that finish sums: an image, some groups.
dim3 by_groups(const Map& map, dim3 grid) {
    return dim3(grid.y, (map.groups + kGroupsOfBlock - 1) / kGroupsOfBlock);
}

Tensor like(const Tensor& x) {
    return new_tensor_on(x, {x.size(0), x.size(1), x.size(2), x.size(3)}, x.scalar_type(), true);
}

}  // namespace

// x and the others channels_last and aligned, x.size(1) / 8 at most 256: the caller sees to it.
std::tuple<Tensor, Tensor> forward(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                   const std::optional<Tensor>& residual, int64_t groups, double eps, bool relu) {
    const Tensor y = like(x);
    const bool is_double = x.scalar_type() == ScalarType::Double;
    const ScalarType wide = is_double ? ScalarType::Double : ScalarType::Float;
    const Tensor stats = new_tensor_on(x, {x.size(0), groups, 2}, wide);
    if (x.numel() == 0) return {y, stats};
    const OnDevice device(x);
    dispatch_float(x.scalar_type(), [&]<class T>(T) {
        using A = Accumulator<T>;
        constexpr int kCount = kPackOf16Bytes<T>;
        const Map map = map_of(x, groups, kCount);
        const dim3 grid(map.chunks, static_cast<unsigned>(x.size(0)));
        const Tensor partial = new_tensor_on(x, {x.size(0), map.chunks, map.channels, 2}, wide);
        const Tensor own_weight = as<A>(weight), own_bias = as<A>(bias);
        const cudaStream_t stream = device.stream();
        add_up<T, kCount, A><<<grid, kThreads, 0, stream>>>(data<T>(x), map, mutable_data<A>(partial));
        STD_CUDA_KERNEL_LAUNCH_CHECK();
        moments<T, A><<<by_groups(map, grid), kThreads, 0, stream>>>(data<T>(x), data<A>(partial), map,
                                                                     static_cast<A>(eps), mutable_data<A>(stats));
        STD_CUDA_KERNEL_LAUNCH_CHECK();
        const auto run = [&]<bool with>(std::bool_constant<with>) {
            apply<T, kCount, with, A>
                <<<grid, kThreads, 0, stream>>>(data<T>(x), data<A>(stats), data<A>(own_weight), data<A>(own_bias),
                                                with ? data<T>(*residual) : nullptr, map, relu, mutable_data<T>(y));
            STD_CUDA_KERNEL_LAUNCH_CHECK();
        };
        residual ? run(std::true_type{}) : run(std::false_type{});
    });
    return {y, stats};
}

// Gradients of x, of weight and bias for each image (B, C, 2: bias, weight), and of the residual (empty without one).
std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad, const Tensor& x, const std::optional<Tensor>& y,
                                            const Tensor& weight, const Tensor& bias, const Tensor& stats,
                                            int64_t groups, bool relu) {
    const Tensor grad_x = like(x), of_channels = new_tensor_on(x, {x.size(0), x.size(1), 2}, stats.scalar_type());
    const Tensor through = y ? like(x) : new_tensor_on(x, {0}, x.scalar_type());
    if (x.numel() == 0) return {grad_x, of_channels, through};
    const OnDevice device(x);
    dispatch_float(x.scalar_type(), [&]<class T>(T) {
        using A = Accumulator<T>;
        constexpr int kCount = kPackOf16Bytes<T>;
        const Map map = map_of(x, groups, kCount);
        const dim3 grid(map.chunks, static_cast<unsigned>(x.size(0)));
        const Tensor partial = new_tensor_on(x, {x.size(0), map.chunks, map.channels, 2}, stats.scalar_type());
        const Tensor of_groups = new_tensor_on(x, {x.size(0), groups, 2}, stats.scalar_type());
        const Tensor own_weight = as<A>(weight), own_bias = as<A>(bias);
        const cudaStream_t stream = device.stream();
        const auto run = [&]<bool residual>(std::bool_constant<residual>) {
            add_up_gradients<T, kCount, residual, A><<<grid, kThreads, 0, stream>>>(
                data<T>(grad), data<T>(x), residual ? data<T>(*y) : nullptr, data<A>(stats), data<A>(own_weight),
                data<A>(own_bias), map, relu, mutable_data<T>(through), mutable_data<A>(partial));
            STD_CUDA_KERNEL_LAUNCH_CHECK();
            finish_sums<A><<<by_groups(map, grid), kThreads, 0, stream>>>(
                data<A>(partial), data<A>(own_weight), map, mutable_data<A>(of_channels), mutable_data<A>(of_groups));
            STD_CUDA_KERNEL_LAUNCH_CHECK();
            spread<T, kCount, residual, A><<<grid, kThreads, 0, stream>>>(
                residual ? data<T>(through) : data<T>(grad), data<T>(x), data<A>(stats), data<A>(own_weight),
                data<A>(own_bias), data<A>(of_groups), map, relu, mutable_data<T>(grad_x));
            STD_CUDA_KERNEL_LAUNCH_CHECK();
        };
        y ? run(std::true_type{}) : run(std::false_type{});
    });
    return {grad_x, of_channels, through};
}

}  // namespace detcore::group_norm

STABLE_TORCH_LIBRARY_IMPL(detcore, CUDA, m) {
    m.impl("group_norm_act", TORCH_BOX(&detcore::group_norm::forward));
    m.impl("group_norm_act_backward", TORCH_BOX(&detcore::group_norm::backward));
}
