#include <algorithm>
#include <tuple>

#include "common/parallel.h"
#include "losses/arguments.h"
#include "losses/box_arguments.h"
#include "losses/boxes.h"

namespace detcore::losses {
namespace {

constexpr int64_t kBlock = 64, kGrain = 32;

// Pairs coordinate by coordinate, for the compiler to vectorise.
template <class A>
struct Block {
    A coordinates[8][kBlock] = {};

    template <class T>
    void load(int side, const T* boxes, int64_t count) {
        for (int64_t i = 0; i < count; ++i)
            for (int c = 0; c < 4; ++c) coordinates[4 * side + c][i] = widen(boxes[4 * i + c]);
    }
    template <class T>
    void store(int side, T* boxes, int64_t count) const {
        for (int64_t i = 0; i < count; ++i)
            for (int c = 0; c < 4; ++c) boxes[4 * i + c] = narrow<T>(coordinates[4 * side + c][i]);
    }
    Pair<A> pair(int64_t i) const {
        const auto& c = coordinates;
        return {{c[0][i], c[2][i], c[4][i], c[6][i]}, {c[1][i], c[3][i], c[5][i], c[7][i]}};
    }
    void set(int64_t i, const Pair<A>& pair) {
        auto& c = coordinates;
        c[0][i] = pair.x.a1, c[2][i] = pair.x.a2, c[4][i] = pair.x.b1, c[6][i] = pair.x.b2;
        c[1][i] = pair.y.a1, c[3][i] = pair.y.a2, c[5][i] = pair.y.b1, c[7][i] = pair.y.b2;
    }
};

// Calls run(first, count) for the blocks of so many pairs.
template <class F>
void for_blocks(int64_t pairs, const F& run) {
    torch::stable::parallel_for(0, (pairs + kBlock - 1) / kBlock, kGrain, [=](int64_t begin, int64_t end) {
        for (int64_t b = begin; b < end; ++b) run(b * kBlock, std::min(kBlock, pairs - b * kBlock));
    });
}

}  // namespace

Tensor box_iou_loss(const Tensor& boxes1, const Tensor& boxes2, int64_t kind, double eps) {
    Tensor out;
    dispatch_boxes(boxes1, boxes2, kind, [&]<class T, Kind own>(T, Constant<own>) {
        using A = Accumulator<T>;
        out = new_losses<A>(boxes1);
        const Tensor first = as<T>(boxes1), second = as<T>(boxes2);
        const T *a = data<T>(first), *b = data<T>(second);
        A* to = mutable_data<A>(out);
        for_blocks(out.numel(), [=](int64_t start, int64_t count) {
            Block<A> block;
            block.load(0, a + 4 * start, count);
            block.load(1, b + 4 * start, count);
            A losses[kBlock];
            for (int64_t i = 0; i < kBlock; ++i) losses[i] = box_loss<own, A>(block.pair(i), eps);
            std::copy_n(losses, count, to + start);
        });
    });
    return out;
}

std::tuple<Tensor, Tensor> box_iou_loss_backward(const Tensor& grad, const Tensor& boxes1, const Tensor& boxes2,
                                                 int64_t kind, double eps, bool needs1, bool needs2) {
    const Tensor grad1 = new_gradient(boxes1, needs1), grad2 = new_gradient(boxes2, needs2);
    dispatch_boxes(boxes1, boxes2, kind, [&]<class T, Kind own>(T, Constant<own>) {
        using A = Accumulator<T>;
        const Tensor first = as<T>(boxes1), second = as<T>(boxes2);
        const Incoming<A> incoming(grad);
        const T *a = data<T>(first), *b = data<T>(second);
        const A* factors = incoming.values;
        T *to1 = needs1 ? mutable_data<T>(grad1) : nullptr, *to2 = needs2 ? mutable_data<T>(grad2) : nullptr;
        for_blocks(grad.numel(), [=, constant = incoming.constant](int64_t start, int64_t count) {
            Block<A> block, slopes;
            block.load(0, a + 4 * start, count);
            block.load(1, b + 4 * start, count);
            A factor[kBlock] = {};
            for (int64_t i = 0; i < count; ++i) factor[i] = factors[constant ? 0 : start + i];
            for (int64_t i = 0; i < kBlock; ++i)
                slopes.set(i, box_loss_gradient<own, A>(block.pair(i), eps, factor[i]));
            if (to1) slopes.store(0, to1 + 4 * start, count);
            if (to2) slopes.store(1, to2 + 4 * start, count);
        });
    });
    return {grad1, grad2};
}

}  // namespace detcore::losses

STABLE_TORCH_LIBRARY_IMPL(detcore, CPU, m) {
    m.impl("box_iou_loss", TORCH_BOX(&detcore::losses::box_iou_loss));
    m.impl("box_iou_loss_backward", TORCH_BOX(&detcore::losses::box_iou_loss_backward));
}
