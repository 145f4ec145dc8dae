#include "losses/op.h"

#include "common/cuda.h"
#include "losses/arguments.h"
#include "losses/neighbours.h"

namespace detcore::losses {
namespace {

// The losses, or where a gradient comes in, what goes out to the logits.
template <bool squares, bool slope, class T, class U, class A = Accumulator<T>,
          class R = std::conditional_t<slope, T, A>>
__global__ void __launch_bounds__(kThreads)
    evaluate(const T* logits, const U* targets, const A* grad, bool constant, int64_t count, A alpha, A gamma, R* out) {
    const int64_t step = int64_t{gridDim.x} * kThreads * kNeighbours;
    for (int64_t i = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kNeighbours; i < count; i += step) {
        const auto x = load(logits, i, count);
        const auto target = load(targets, i, count);
        Neighbours<A> factor{};
        if (slope && !constant) factor = load(grad, i, count);
        if (slope && constant) factor = {*grad, *grad, *grad, *grad};
        Neighbours<R> result;
#pragma unroll
        for (int k = 0; k < kNeighbours; ++k) {
            const Focal<A> own = focal<squares, A>(widen(x.values[k]), widen(target.values[k]), alpha, gamma);
            result.values[k] = narrow<R>(slope ? factor.values[k] * own.slope : own.loss);
        }
        store(result, out, i, count);
    }
}

template <bool slope>
void run(const Tensor& logits, const Tensor& targets, const Tensor* grad, double alpha, double gamma,
         const Tensor& out) {
    const int64_t count = logits.numel();
    if (count == 0) return;
    const OnDevice device(logits);
    dispatch_focal(logits.scalar_type(), targets.scalar_type(), gamma,
                   [&]<class T, class U, class Squares>(T, U, Squares) {
                       using A = Accumulator<T>;
                       const Tensor x = aligned_as<T>(logits), t = aligned_as<U>(targets);
                       const Incoming<A> incoming(slope ? *grad : out);
                       using R = std::conditional_t<slope, T, A>;
                       evaluate<Squares::value, slope, T, U>
                           <<<blocks_for(count, kThreads * kNeighbours), kThreads, 0, device.stream()>>>(
                               data<T>(x), data<U>(t), incoming.values, incoming.constant, count, static_cast<A>(alpha),
                               static_cast<A>(gamma), mutable_data<R>(out));
                       STD_CUDA_KERNEL_LAUNCH_CHECK();
                   });
}

}  // namespace

Tensor sigmoid_focal_loss(const Tensor& logits, const Tensor& targets, double alpha, double gamma) {
    const bool is_double = logits.scalar_type() == ScalarType::Double;
    const Tensor out = new_like(logits, is_double ? ScalarType::Double : ScalarType::Float);
    run<false>(logits, targets, nullptr, alpha, gamma, out);
    return out;
}

Tensor sigmoid_focal_loss_backward(const Tensor& grad, const Tensor& logits, const Tensor& targets, double alpha,
                                   double gamma) {
    const Tensor out = new_like(logits, logits.scalar_type());
    run<true>(logits, targets, &grad, alpha, gamma, out);
    return out;
}

}  // namespace detcore::losses

STABLE_TORCH_LIBRARY_IMPL(detcore, CUDA, m) {
    m.impl("sigmoid_focal_loss", TORCH_BOX(&detcore::losses::sigmoid_focal_loss));
    m.impl("sigmoid_focal_loss_backward", TORCH_BOX(&detcore::losses::sigmoid_focal_loss_backward));
}
