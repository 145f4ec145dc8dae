#include "nms/op.h"

#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "common/parallel.h"
#include "common/tensor.h"

namespace detcore::nms {
namespace {

// The kept boxes of a group, coordinate by coordinate, so that one box is compared with many at once.
template <class A>
class KeptBoxes {
  public:
    KeptBoxes(const A* boxes, A threshold) : boxes_(boxes), threshold_(threshold) {}

    void add(int64_t index) {
        const A* box = boxes_ + 4 * index;
        if (size_ % kBlock == 0)  // places not yet taken have no IoU
            for (auto& values : values_) values.resize(size_ + kBlock, std::numeric_limits<A>::quiet_NaN());
        for (int k = 0; k < 4; ++k) values_[k][size_] = box[k];
        values_[4][size_] = area(box);
        ++size_;
    }

    bool suppresses(int64_t index) const {
        const A* box = boxes_ + 4 * index;
        const A own = area(box);
        const A *x1 = values_[0].data(), *y1 = values_[1].data(), *x2 = values_[2].data(), *y2 = values_[3].data();
        const A* areas = values_[4].data();
        for (int64_t first = 0; first < size_; first += kBlock) {
            int hits = 0;
            for (int64_t j = first; j < first + kBlock; ++j) {
                const A left = x1[j] > box[0] ? x1[j] : box[0], right = x2[j] < box[2] ? x2[j] : box[2];
                const A top = y1[j] > box[1] ? y1[j] : box[1], bottom = y2[j] < box[3] ? y2[j] : box[3];
                const A width = right - left > 0 ? right - left : A(0), height = bottom - top > 0 ? bottom - top : A(0);
                const A intersection = width * height;
                hits += intersection / (areas[j] + own - intersection) > threshold_;
            }
            if (hits) return true;
        }
        return false;
    }

  private:
    static constexpr int64_t kBlock = 64;

    // NaN for a box without IoU.
    static A area(const A* box) {
        const bool finite =
            std::isfinite(box[0]) && std::isfinite(box[1]) && std::isfinite(box[2]) && std::isfinite(box[3]);
        return finite ? (box[2] - box[0]) * (box[3] - box[1]) : std::numeric_limits<A>::quiet_NaN();
    }

    const A* boxes_;
    A threshold_;
    int64_t size_ = 0;
    std::vector<A> values_[5];
};

// The largest number of the type that is not above the threshold: comparing with it is comparing with the threshold.
template <class A>
A not_above(double threshold) {
    const A near = static_cast<A>(threshold);
    return static_cast<double>(near) > threshold ? std::nextafter(near, -std::numeric_limits<A>::infinity()) : near;
}

template <class A>
std::vector<std::vector<int64_t>> keep_each(const Tensor& boxes, const Tensor& scores,
                                            const std::optional<Tensor>& groups, const std::optional<Tensor>& valid,
                                            double threshold, int64_t max_keep) {
    const int64_t batch = boxes.size(0), count = boxes.size(1);
    const Tensor own_boxes = as<A>(boxes), own_scores = as<A>(scores);
    std::optional<Tensor> own_groups, own_valid;
    if (groups) own_groups = as<int64_t>(*groups);
    if (valid) own_valid = as<bool>(*valid);
    std::vector<std::vector<int64_t>> kept(batch);
    parallel_tasks(batch, [&](int64_t image) {
        const A* first = data<A>(own_boxes) + 4 * image * count;
        const int64_t* group = own_groups ? data<int64_t>(*own_groups) + image * count : nullptr;
        const bool* alive = own_valid ? data<bool>(*own_valid) + image * count : nullptr;
        const auto make = [&] { return KeptBoxes<A>(first, not_above<A>(threshold)); };
        kept[image] = keep<KeptBoxes<A>>(data<A>(own_scores) + image * count, group, alive, count, max_keep, make);
    });
    return kept;
}

std::vector<std::vector<int64_t>> keep_any(const Tensor& boxes, const Tensor& scores,
                                           const std::optional<Tensor>& groups, const std::optional<Tensor>& valid,
                                           double threshold, int64_t max_keep) {
    if (boxes.scalar_type() == ScalarType::Double)
        return keep_each<double>(boxes, scores, groups, valid, threshold, max_keep);
    return keep_each<float>(boxes, scores, groups, valid, threshold, max_keep);
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
