#include "losses/op.h"

#include "common/parallel.h"
#include "common/tensor.h"

namespace detcore::losses {
namespace {

constexpr int64_t kGrain = 16384;

// Calls run with the type computed in, and with whether gamma is 2.
template <class F>
void dispatch(ScalarType type, double gamma, const F& run) {
    if (type == ScalarType::Double) {
        gamma == 2 ? run(double{}, std::true_type{}) : run(double{}, std::false_type{});
    } else {
        gamma == 2 ? run(float{}, std::true_type{}) : run(float{}, std::false_type{});
    }
}

Tensor like(const Tensor& tensor, ScalarType type) {
    const auto sizes = tensor.sizes();
    return new_tensor({sizes.begin(), sizes.end()}, type);
}

}  // namespace

Tensor sigmoid_focal_loss(const Tensor& logits, const Tensor& targets, double alpha, double gamma) {
    Tensor out = like(logits, logits.scalar_type());
    dispatch(logits.scalar_type(), gamma, [&]<class A, class Squares>(A, Squares) {
        const Tensor x = as<A>(logits), t = as<A>(targets);
        const A *from = data<A>(x), *target = data<A>(t);
        A* to = mutable_data<A>(out);
        torch::stable::parallel_for(0, logits.numel(), kGrain, [=](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i)
                to[i] = focal<Squares::value, A>(from[i], target[i], alpha, gamma).loss;
        });
    });
    return out;
}

Tensor sigmoid_focal_loss_backward(const Tensor& grad, const Tensor& logits, const Tensor& targets, double alpha,
                                   double gamma) {
    Tensor out = like(logits, logits.scalar_type());
    dispatch(logits.scalar_type(), gamma, [&]<class A, class Squares>(A, Squares) {
        const Tensor x = as<A>(logits), t = as<A>(targets), g = as<A>(grad);
        const A *from = data<A>(x), *target = data<A>(t), *factor = data<A>(g);
        A* to = mutable_data<A>(out);
        torch::stable::parallel_for(0, logits.numel(), kGrain, [=](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i)
                to[i] = factor[i] * focal<Squares::value, A>(from[i], target[i], alpha, gamma).slope;
        });
    });
    return out;
}

}  // namespace detcore::losses

STABLE_TORCH_LIBRARY_IMPL(detcore, CPU, m) {
    m.impl("sigmoid_focal_loss", TORCH_BOX(&detcore::losses::sigmoid_focal_loss));
    m.impl("sigmoid_focal_loss_backward", TORCH_BOX(&detcore::losses::sigmoid_focal_loss_backward));
}
