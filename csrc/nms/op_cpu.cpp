#include "nms/op.h"

#include <optional>
#include <tuple>
#include <vector>

#include "common/parallel.h"
#include "common/tensor.h"
#include "nms/greedy.h"

namespace detcore::nms {
namespace {

// The kept boxes of a group, coordinate by coordinate, so that one box is compared with many at once.
template <class A>
class KeptBoxes {
  public:
    KeptBoxes(const A* boxes, const Threshold<A>& threshold) : boxes_(boxes), threshold_(threshold) {}

    void add(int64_t index) {
        if (size_ % kBlock == 0)  // places not yet taken have no IoU
            for (auto& values : values_) values.resize(size_ + kBlock, std::numeric_limits<A>::quiet_NaN());
        const Box<A> box = at(index);
        values_[0][size_] = box.x1, values_[1][size_] = box.y1, values_[2][size_] = box.x2, values_[3][size_] = box.y2;
        values_[4][size_] = box.area;
        ++size_;
    }

    bool suppresses(int64_t index) const {
        const Box<A> box = at(index);
        const auto may_be_below = [this](const Overlap<A>& pair) { return threshold_.may_be_below(pair); };
        const auto is_below = [this](const Overlap<A>& pair) { return threshold_.is_below(pair); };
        for (int64_t first = 0; first < size_; first += kBlock)
            if (any(first, box, may_be_below) && any(first, box, is_below)) return true;
        return false;
    }

  private:
    static constexpr int64_t kBlock = 64;

    template <class F>
    bool any(int64_t first, const Box<A>& box, const F& holds) const {
        const A *x1 = values_[0].data(), *y1 = values_[1].data(), *x2 = values_[2].data(), *y2 = values_[3].data();
        const A* areas = values_[4].data();
        int hits = 0;
        for (int64_t j = first; j < first + kBlock; ++j)
            hits += holds(overlap(Box<A>{x1[j], y1[j], x2[j], y2[j], areas[j]}, box));
        return hits != 0;
    }

    Box<A> at(int64_t index) const {
        const A* box = boxes_ + 4 * index;
        return {box[0], box[1], box[2], box[3], area(box[0], box[1], box[2], box[3])};
    }

    const A* boxes_;
    Threshold<A> threshold_;
    int64_t size_ = 0;
    std::vector<A> values_[5];
};

template <class A, class S>
std::vector<std::vector<int64_t>> keep_each(const Tensor& boxes, const Tensor& scores,
                                            const std::optional<Tensor>& groups, const std::optional<Tensor>& valid,
                                            double threshold, int64_t max_keep) {
    const int64_t batch = boxes.size(0), count = boxes.size(1);
    const Tensor own_boxes = as<A>(boxes), own_scores = as<S>(scores);
    std::optional<Tensor> own_groups, own_valid;
    if (groups) own_groups = as<int64_t>(*groups);
    if (valid) own_valid = as<bool>(*valid);
    std::vector<std::vector<int64_t>> kept(batch);
    const Threshold<A> limit(threshold);
    parallel_tasks(batch, [&](int64_t image) {
        const A* first = data<A>(own_boxes) + 4 * image * count;
        const int64_t* group = own_groups ? data<int64_t>(*own_groups) + image * count : nullptr;
        const bool* alive = own_valid ? data<bool>(*own_valid) + image * count : nullptr;
        const auto make = [&] { return KeptBoxes<A>(first, limit); };
        kept[image] = keep<KeptBoxes<A>>(data<S>(own_scores) + image * count, group, alive, count, max_keep, make);
    });
    return kept;
}

std::vector<std::vector<int64_t>> keep_any(const Tensor& boxes, const Tensor& scores,
                                           const std::optional<Tensor>& groups, const std::optional<Tensor>& valid,
                                           double threshold, int64_t max_keep) {
    if (boxes.scalar_type() == ScalarType::Double)
        return keep_each<double, double>(boxes, scores, groups, valid, threshold, max_keep);
    // Scores in their own type: rounded, some would be equal.
    if (scores.scalar_type() == ScalarType::Double)
        return keep_each<float, double>(boxes, scores, groups, valid, threshold, max_keep);
    return keep_each<float, float>(boxes, scores, groups, valid, threshold, max_keep);
}

}  // namespace

std::tuple<Tensor, Tensor> padded(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& groups,
                                  const std::optional<Tensor>& valid, double threshold, int64_t max_keep) {
    const auto kept = keep_any(boxes, scores, groups, valid, threshold, max_keep);
    const auto batch = static_cast<int64_t>(kept.size());
    Tensor keep = new_tensor({batch, max_keep}, ScalarType::Long), count = new_tensor({batch}, ScalarType::Long);
    for (int64_t image = 0; image < batch; ++image) {
        int64_t* row = mutable_data<int64_t>(keep) + image * max_keep;
        std::fill(std::copy(kept[image].begin(), kept[image].end(), row), row + max_keep, 0);
        mutable_data<int64_t>(count)[image] = static_cast<int64_t>(kept[image].size());
    }
    return {keep, count};
}

Tensor one(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& groups, double threshold) {
    std::optional<Tensor> batched;
    if (groups) batched = torch::stable::unsqueeze(*groups, 0);
    const auto kept = keep_any(torch::stable::unsqueeze(boxes, 0), torch::stable::unsqueeze(scores, 0), batched,
                               std::nullopt, threshold, boxes.size(0))[0];
    Tensor out = new_tensor({static_cast<int64_t>(kept.size())}, ScalarType::Long);
    std::copy(kept.begin(), kept.end(), mutable_data<int64_t>(out));
    return out;
}

}  // namespace detcore::nms

STABLE_TORCH_LIBRARY_IMPL(detcore, CPU, m) {
    m.impl("nms", TORCH_BOX(&detcore::nms::one));
    m.impl("nms_padded", TORCH_BOX(&detcore::nms::padded));
}
