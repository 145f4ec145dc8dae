#include "rotated/op.h"

#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "common/parallel.h"
#include "common/tensor.h"
#include "nms/op.h"

namespace detcore::rotated {
namespace {

// Boxes with the circles around them: only where these meet can the boxes.
class Circled {
  public:
    void add(const Box& box) {
        if (boxes_.size() % kBlock == 0)  // circles not yet there are met by none
            for (auto* values : {&x_, &y_, &radius_}) values->resize(boxes_.size() + kBlock, kNone);
        const size_t at = boxes_.size();
        if (usable(box)) x_[at] = box.x, y_[at] = box.y, radius_[at] = radius(box);
        boxes_.push_back(box);
    }

    // Calls visit(index, iou) for the boxes whose circle meets the box's, until it returns true; whether it did.
    // kept_first: which of the two is the first argument of `iou`, whose last bit depends on it.
    template <bool kept_first, class F>
    bool visit(const Box& box, const F& visit_one) const {
        if (!usable(box)) return false;
        const double own = radius(box);
        for (size_t first = 0; first < boxes_.size(); first += kBlock) {
            uint8_t near[kBlock];
            int any = 0;
            for (size_t i = 0; i < kBlock; ++i) {
                const double dx = x_[first + i] - box.x, dy = y_[first + i] - box.y;
                const double reach = (radius_[first + i] + own) * (1 + 1e-12);
                near[i] = dx * dx + dy * dy <= reach * reach;
                any += near[i];
            }
            for (size_t i = 0; any && i < kBlock; ++i)
                if (near[i] &&
                    visit_one(first + i, kept_first ? iou(boxes_[first + i], box) : iou(box, boxes_[first + i])))
                    return true;
        }
        return false;
    }

  private:
    static constexpr size_t kBlock = 32;
    static constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

    static double radius(const Box& box) { return std::hypot(box.w, box.h) / 2; }

    std::vector<Box> boxes_;
    std::vector<double> x_, y_, radius_;
};

class KeptBoxes {
  public:
    KeptBoxes(const Box* boxes, double threshold) : boxes_(boxes), threshold_(threshold) {}

    void add(int64_t index) { kept_.add(boxes_[index]); }
    bool suppresses(int64_t index) const {
        return kept_.visit<true>(boxes_[index], [this](size_t, double iou) { return iou > threshold_; });
    }

  private:
    const Box* boxes_;
    double threshold_;
    Circled kept_;
};

const Box* boxes_of(const Tensor& doubles) {
    return reinterpret_cast<const Box*>(data<double>(doubles));
}

}  // namespace

Tensor box_iou_rotated(const Tensor& a, const Tensor& b) {
    const int64_t rows = a.size(0), columns = b.size(0);
    const ScalarType type = a.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
    const Tensor own_a = as<double>(a), own_b = as<double>(b);
    Circled others;
    for (int64_t j = 0; j < columns; ++j) others.add(boxes_of(own_b)[j]);
    Tensor out = new_tensor({rows, columns}, type);
    const auto fill = [&]<class T>(T* to) {
        torch::stable::parallel_for(0, rows, 4, [&](int64_t begin, int64_t end) {
            std::fill(to + begin * columns, to + end * columns, T(0));
            for (int64_t i = begin; i < end; ++i) {
                const Box& box = boxes_of(own_a)[i];
                others.visit<false>(box, [&](size_t j, double iou) {
                    to[i * columns + static_cast<int64_t>(j)] = static_cast<T>(iou);
                    return false;
                });
            }
        });
    };
    if (type == ScalarType::Double) {
        fill(mutable_data<double>(out));
    } else {
        fill(mutable_data<float>(out));
    }
    return out;
}

std::tuple<Tensor, Tensor> nms_rotated_padded(const Tensor& boxes, const Tensor& scores,
                                              const std::optional<Tensor>& groups, const std::optional<Tensor>& valid,
                                              double threshold, int64_t max_keep) {
    const int64_t batch = boxes.size(0), count = boxes.size(1);
    const Tensor own_boxes = as<double>(boxes), own_scores = as<double>(scores);
    std::optional<Tensor> own_groups, own_valid;
    if (groups) own_groups = as<int64_t>(*groups);
    if (valid) own_valid = as<bool>(*valid);
    Tensor keep = new_tensor({batch, max_keep}, ScalarType::Long), counts = new_tensor({batch}, ScalarType::Long);
    parallel_tasks(batch, [&](int64_t image) {
        const Box* first = boxes_of(own_boxes) + image * count;
        const int64_t* group = own_groups ? data<int64_t>(*own_groups) + image * count : nullptr;
        const bool* alive = own_valid ? data<bool>(*own_valid) + image * count : nullptr;
        const auto kept = nms::keep<KeptBoxes>(data<double>(own_scores) + image * count, group, alive, count, max_keep,
                                               [&] { return KeptBoxes(first, threshold); });
        int64_t* row = mutable_data<int64_t>(keep) + image * max_keep;
        std::fill(std::copy(kept.begin(), kept.end(), row), row + max_keep, 0);
        mutable_data<int64_t>(counts)[image] = static_cast<int64_t>(kept.size());
    });
    return {keep, counts};
}

}  // namespace detcore::rotated

STABLE_TORCH_LIBRARY_IMPL(detcore, CPU, m) {
    m.impl("box_iou_rotated", TORCH_BOX(&detcore::rotated::box_iou_rotated));
    m.impl("nms_rotated_padded", TORCH_BOX(&detcore::rotated::nms_rotated_padded));
}
