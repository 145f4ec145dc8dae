#include <tuple>

#include "common/cuda.h"
#include "losses/arguments.h"
#include "losses/box_arguments.h"
#include "losses/boxes.h"

namespace detcore::losses {
namespace {

constexpr int kThreads = 256;

template <class T>
using Corners = Pack<T, 4>;

template <class T, class A = Accumulator<T>>
__device__ inline Pair<A> read_pair(const T* boxes1, const T* boxes2, int64_t i) {
    const auto a = Corners<T>::load(boxes1 + 4 * i), b = Corners<T>::load(boxes2 + 4 * i);
    return {{widen(a.values[0]), widen(a.values[2]), widen(b.values[0]), widen(b.values[2])},
            {widen(a.values[1]), widen(a.values[3]), widen(b.values[1]), widen(b.values[3])}};
}

template <Kind kind, class T, class A = Accumulator<T>>
__global__ void __launch_bounds__(kThreads) forward(const T* boxes1, const T* boxes2, A eps, int64_t count, A* out) {
    const int64_t step = int64_t{gridDim.x} * kThreads;
    for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step)
        out[i] = box_loss<kind, A>(read_pair(boxes1, boxes2, i), eps);
}

template <Kind kind, class T, class A = Accumulator<T>>
__global__ void __launch_bounds__(kThreads)
    backward(const T* boxes1, const T* boxes2, const A* grad, bool constant, A eps, int64_t count, T* out1, T* out2) {
    const int64_t step = int64_t{gridDim.x} * kThreads;
    for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step) {
        const A factor = grad[constant ? 0 : i];
        const Pair<A> slopes = box_loss_gradient<kind, A>(read_pair(boxes1, boxes2, i), eps, factor);
        const auto &x = slopes.x, &y = slopes.y;
        if (out1) Corners<T>{narrow<T>(x.a1), narrow<T>(y.a1), narrow<T>(x.a2), narrow<T>(y.a2)}.store(out1 + 4 * i);
        if (out2) Corners<T>{narrow<T>(x.b1), narrow<T>(y.b1), narrow<T>(x.b2), narrow<T>(y.b2)}.store(out2 + 4 * i);
    }
}

}  // namespace

Tensor box_iou_loss(const Tensor& boxes1, const Tensor& boxes2, int64_t kind, double eps) {
    const OnDevice device(boxes1);
    Tensor out;
    dispatch_boxes(boxes1, boxes2, kind, [&]<class T, Kind own>(T, Constant<own>) {
        using A = Accumulator<T>;
        out = new_losses<A>(boxes1);
        const int64_t count = out.numel();
        if (count == 0) return;
        const Tensor first = aligned_as<T>(boxes1), second = aligned_as<T>(boxes2);
        forward<own, T><<<blocks_for(count, kThreads), kThreads, 0, device.stream()>>>(
            data<T>(first), data<T>(second), static_cast<A>(eps), count, mutable_data<A>(out));
        STD_CUDA_KERNEL_LAUNCH_CHECK();
    });
    return out;
}

std::tuple<Tensor, Tensor> box_iou_loss_backward(const Tensor& grad, const Tensor& boxes1, const Tensor& boxes2,
                                                 int64_t kind, double eps, bool needs1, bool needs2) {
    const OnDevice device(boxes1);
    const Tensor grad1 = new_gradient(boxes1, needs1), grad2 = new_gradient(boxes2, needs2);
    dispatch_boxes(boxes1, boxes2, kind, [&]<class T, Kind own>(T, Constant<own>) {
        using A = Accumulator<T>;
        const int64_t count = grad.numel();
        if (count == 0) return;
        const Tensor first = aligned_as<T>(boxes1), second = aligned_as<T>(boxes2);
        const Incoming<A> incoming(grad);
        backward<own, T><<<blocks_for(count, kThreads), kThreads, 0, device.stream()>>>(
            data<T>(first), data<T>(second), incoming.values, incoming.constant, static_cast<A>(eps), count,
            needs1 ? mutable_data<T>(grad1) : nullptr, needs2 ? mutable_data<T>(grad2) : nullptr);
        STD_CUDA_KERNEL_LAUNCH_CHECK();
    });
    return {grad1, grad2};
}

}  // namespace detcore::losses

STABLE_TORCH_LIBRARY_IMPL(detcore, CUDA, m) {
    m.impl("box_iou_loss", TORCH_BOX(&detcore::losses::box_iou_loss));
    m.impl("box_iou_loss_backward", TORCH_BOX(&detcore::losses::box_iou_loss_backward));
}
