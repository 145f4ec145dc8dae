#include "rotated/op.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "common/lanes.h"
#include "common/parallel.h"
#include "common/tensor.h"
#include "nms/greedy.h"

namespace detcore::rotated {
namespace {

// Boxes with the circles around them: only where these meet can the boxes. In blocks, of which those too far up or down
// are passed over: few remain if the boxes were added by their height.
class Circled {
  public:
    void add(const Frame& box) {
        const size_t at = boxes_.size();
        if (at % kBlock == 0) {  // circles not yet there are met by none
            for (auto* values : {&x_, &y_, &radius_}) values->resize(at + kBlock, kNone);
            blocks_.push_back({kFar, -kFar, 0});
        }
        if (usable(box)) {
            x_[at] = box.x, y_[at] = box.y, radius_[at] = radius(box);
            Block& block = blocks_.back();
            block = {std::min(block.top, box.y), std::max(block.bottom, box.y), std::max(block.radius, radius_[at])};
        }
        boxes_.push_back(box);
    }

    // Calls visit_one(index, other) for the boxes whose circle meets the box's, until it returns true; whether it did.
    template <class F>
    bool visit(const Frame& box, const F& visit_one) const {
        if (!usable(box)) return false;
        const double own = radius(box);
        for (size_t first = 0; first < boxes_.size(); first += kBlock) {
            const Block& block = blocks_[first / kBlock];
            if (std::max(block.top - box.y, box.y - block.bottom) > reach(block.radius, own)) continue;
            uint8_t near[kBlock];
            int any = 0;
            for (size_t i = 0; i < kBlock; ++i) {
                const double dx = x_[first + i] - box.x, dy = y_[first + i] - box.y;
                const double most = reach(radius_[first + i], own);
                near[i] = dx * dx + dy * dy <= most * most;
                any += near[i];
            }
            for (size_t i = 0; any && i < kBlock; ++i)
                if (near[i] && visit_one(first + i, boxes_[first + i])) return true;
        }
        return false;
    }

  private:
    static constexpr size_t kBlock = 32;
    static constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
    static constexpr double kFar = std::numeric_limits<double>::infinity();

    // Of the centres of a block, and its largest circle.
    struct Block {
        double top, bottom, radius;
    };

    static double reach(double radius, double other) { return (radius + other) * (1 + 1e-12); }

    std::vector<Frame> boxes_;
    std::vector<double> x_, y_, radius_;
    std::vector<Block> blocks_;
};

class KeptBoxes {
  public:
    KeptBoxes(const Frame* boxes, float threshold) : boxes_(boxes), threshold_(threshold) {}

    void add(int64_t index) { kept_.add(boxes_[index]); }
    bool suppresses(int64_t index) const {
        const Frame& box = boxes_[index];
        return kept_.visit(box, [&](size_t, const Frame& kept) { return rotated::suppresses(kept, box, threshold_); });
    }

  private:
    const Frame* boxes_;
    float threshold_;
    Circled kept_;
};

// Pairs of usable boxes, a pair in each lane, and where their IoU goes.
template <class T>
class Pairs {
  public:
    void add(const Frame& a, const Frame& b, T* to) {
        set(a_, a);
        set(b_, b);
        to_[count_] = to;
        if (++count_ == kLanes) write();
    }

    void write() {
        const Vector overlap = iou(a_, b_);
        for (int i = 0; i < count_; ++i) *to_[i] = static_cast<T>(overlap[i]);
        count_ = 0;
    }

  private:
    using Vector = Lanes<double>::Vector;
    static constexpr int kLanes = Lanes<double>::count;

    void set(FrameOf<Vector>& lanes, const Frame& box) {
        lanes.x[count_] = box.x, lanes.y[count_] = box.y, lanes.w[count_] = box.w, lanes.h[count_] = box.h;
        lanes.cos[count_] = box.cos, lanes.sin[count_] = box.sin;
    }

    FrameOf<Vector> a_{}, b_{};
    T* to_[kLanes];
    int count_ = 0;
};

// Of a tensor of doubles (..., 5).
std::vector<Frame> frames_of(const Tensor& boxes) {
    std::vector<Frame> frames(boxes.numel() / 5);
    const auto* first = reinterpret_cast<const Box*>(data<double>(boxes));
    torch::stable::parallel_for(0, static_cast<int64_t>(frames.size()), 512, [&](int64_t begin, int64_t end) {
        std::transform(first + begin, first + end, frames.begin() + begin, frame_of);
    });
    return frames;
}

}  // namespace

Tensor box_iou_rotated(const Tensor& a, const Tensor& b) {
    const int64_t rows = a.size(0), columns = b.size(0);
    const ScalarType type = a.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
    const std::vector<Frame> own = frames_of(as<double>(a));
    const std::vector<Frame> frames = frames_of(as<double>(b));
    std::vector<int64_t> by_height;
    for (int64_t j = 0; j < columns; ++j)
        if (usable(frames[j])) by_height.push_back(j);
    std::sort(by_height.begin(), by_height.end(), [&](int64_t j, int64_t k) { return frames[j].y < frames[k].y; });
    Circled others;
    for (int64_t j : by_height) others.add(frames[j]);
    Tensor out = new_tensor({rows, columns}, type);
    const auto fill = [&]<class T>(T* to) {
        torch::stable::parallel_for(0, rows, 4, [&](int64_t begin, int64_t end) {
            std::fill(to + begin * columns, to + end * columns, T(0));
            Pairs<T> pairs;
            for (int64_t i = begin; i < end; ++i) {
                others.visit(own[i], [&](size_t at, const Frame& other) {
                    pairs.add(own[i], other, to + i * columns + by_height[at]);
                    return false;
                });
            }
            pairs.write();
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
    const std::vector<Frame> frames = frames_of(as<double>(boxes));
    const Tensor own_scores = as<double>(scores);
    std::optional<Tensor> own_groups, own_valid;
    if (groups) own_groups = as<int64_t>(*groups);
    if (valid) own_valid = as<bool>(*valid);
    Tensor keep = new_tensor({batch, max_keep}, ScalarType::Long), counts = new_tensor({batch}, ScalarType::Long);
    const auto limit = static_cast<float>(threshold);
    parallel_tasks(batch, [&](int64_t image) {
        const int64_t* group = own_groups ? data<int64_t>(*own_groups) + image * count : nullptr;
        const bool* alive = own_valid ? data<bool>(*own_valid) + image * count : nullptr;
        const auto kept = nms::keep<KeptBoxes>(data<double>(own_scores) + image * count, group, alive, count, max_keep,
                                               [&] { return KeptBoxes(frames.data() + image * count, limit); });
        int64_t* row = mutable_data<int64_t>(keep) + image * max_keep;
        std::fill(std::copy(kept.begin(), kept.end(), row), row + max_keep, 0);
        mutable_data<int64_t>(counts)[image] = static_cast<int64_t>(kept.size());
    });
    return {keep, counts};
}

Tensor nms_rotated(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& groups, double threshold) {
    std::optional<Tensor> batched;
    if (groups) batched = torch::stable::unsqueeze(*groups, 0);
    auto [keep, count] = nms_rotated_padded(torch::stable::unsqueeze(boxes, 0), torch::stable::unsqueeze(scores, 0),
                                            batched, std::nullopt, threshold, boxes.size(0));
    Tensor kept = torch::stable::squeeze(keep, 0);
    return torch::stable::narrow(kept, 0, 0, *data<int64_t>(count));
}

}  // namespace detcore::rotated

STABLE_TORCH_LIBRARY_IMPL(detcore, CPU, m) {
    m.impl("box_iou_rotated", TORCH_BOX(&detcore::rotated::box_iou_rotated));
    m.impl("nms_rotated", TORCH_BOX(&detcore::rotated::nms_rotated));
    m.impl("nms_rotated_padded", TORCH_BOX(&detcore::rotated::nms_rotated_padded));
}
