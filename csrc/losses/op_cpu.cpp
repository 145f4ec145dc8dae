#include "losses/op.h"

#include "common/tensor.h"
#include "losses/arguments.h"

namespace detcore::losses {
namespace {

constexpr int64_t kGrain = 16384;

}  // namespace

Tensor sigmoid_focal_loss(const Tensor& logits, const Tensor& targets, double alpha, double gamma) {
    Tensor out;
    dispatch_focal(logits.scalar_type(), targets.scalar_type(), gamma,
                   [&]<class T, class U, class Squares>(T, U, Squares) {
                       using A = Accumulator<T>;
                       out = new_like(logits, scalar_type_of<A>());
                       const Tensor x = as<T>(logits), t = as<U>(targets);
                       const T* from = data<T>(x);
                       const U* target = data<U>(t);
                       A* to = mutable_data<A>(out);
                       torch::stable::parallel_for(0, logits.numel(), kGrain, [=](int64_t begin, int64_t end) {
                           for (int64_t i = begin; i < end; ++i)
                               to[i] = focal<Squares::value, A>(widen(from[i]), widen(target[i]), alpha, gamma).loss;
                       });
                   });
    return out;
}

Tensor sigmoid_focal_loss_backward(const Tensor& grad, const Tensor& logits, const Tensor& targets, double alpha,
                                   double gamma) {
    Tensor out = new_like(logits, logits.scalar_type());
    dispatch_focal(
        logits.scalar_type(), targets.scalar_type(), gamma, [&]<class T, class U, class Squares>(T, U, Squares) {
            using A = Accumulator<T>;
            const Tensor x = as<T>(logits), t = as<U>(targets);
            const Incoming<A> incoming(grad);
            const T* from = data<T>(x);
            const U* target = data<U>(t);
            T* to = mutable_data<T>(out);
            const auto run = [&](auto factor) {
                torch::stable::parallel_for(0, logits.numel(), kGrain, [=](int64_t begin, int64_t end) {
                    for (int64_t i = begin; i < end; ++i) {
                        const A slope = focal<Squares::value, A>(widen(from[i]), widen(target[i]), alpha, gamma).slope;
                        to[i] = narrow<T>(factor(i) * slope);
                    }
                });
            };
            const A* values = incoming.values;
            if (incoming.constant) {
                run([value = *values](int64_t) { return value; });
            } else {
                run([values](int64_t i) { return values[i]; });
            }
        });
    return out;
}

}  // namespace detcore::losses

STABLE_TORCH_LIBRARY_IMPL(detcore, CPU, m) {
    m.impl("sigmoid_focal_loss", TORCH_BOX(&detcore::losses::sigmoid_focal_loss));
    m.impl("sigmoid_focal_loss_backward", TORCH_BOX(&detcore::losses::sigmoid_focal_loss_backward));
}
