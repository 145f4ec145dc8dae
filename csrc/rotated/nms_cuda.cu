#include "nms/greedy_cuda.h"
#include "rotated/near.h"

namespace detcore::rotated {
namespace {

// The test of nms/tile.h.
class Turned {
  public:
    struct Glance {
        Circle circle;
        int64_t group;
    };

    // groups: null if all boxes are of one.
    Turned(const Boxes& boxes, const int64_t* groups, float threshold, Glance* glances, Frame* frames)
        : boxes_(boxes), groups_(groups), threshold_(threshold), glances_(glances), frames_(frames) {}

    static __device__ Glance blank() { return {no_circle(), 0}; }

    __device__ void put(int64_t place, int64_t index) const {
        Glance glance = blank();
        if (index >= 0) {
            const Frame frame = frame_of(boxes_[index]);
            glance.circle = circle_of(frame);
            if (groups_) glance.group = groups_[index];
            frames_[place] = frame;
        }
        glances_[place] = glance;
    }

    __device__ Glance load(int64_t place) const { return glances_[place]; }

    __device__ bool near(const Glance& better, const Glance& worse) const {
        return rotated::near(better.circle, worse.circle) && better.group == worse.group;
    }

    __device__ bool likely(const Glance&, const Glance&) const { return true; }

    __device__ bool suppresses(const Glance&, const Glance&, int64_t better, int64_t worse) const {
        return rotated::suppresses(frames_[better], frames_[worse], threshold_);
    }

  private:
    Boxes boxes_;
    const int64_t* groups_;
    float threshold_;
    Glance* glances_;
    Frame* frames_;
};

void suppress(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& groups,
              const std::optional<Tensor>& valid, double threshold, nms::Kept& kept, const OnDevice& device) {
    const bool doubles = boxes.scalar_type() == ScalarType::Double;
    const Tensor own_boxes = doubles ? as<double>(boxes) : as<float>(boxes);
    const Tensor own_scores = scores.scalar_type() == ScalarType::Double ? as<double>(scores) : as<float>(scores);
    std::optional<Tensor> own_groups, own_valid;
    if (groups) own_groups = as<int64_t>(*groups);
    if (valid) own_valid = as<bool>(*valid);
    const int64_t count = own_scores.numel();
    const auto memory = [&](size_t bytes_of_box) {
        return new_tensor_on(boxes, {count * static_cast<int64_t>(bytes_of_box)}, ScalarType::Byte);
    };
    const Tensor glances = memory(sizeof(Turned::Glance)), frames = memory(sizeof(Frame));
    const Turned test({own_boxes.const_data_ptr(), doubles}, own_groups ? data<int64_t>(*own_groups) : nullptr,
                      static_cast<float>(threshold), reinterpret_cast<Turned::Glance*>(mutable_data<uint8_t>(glances)),
                      reinterpret_cast<Frame*>(mutable_data<uint8_t>(frames)));
    nms::suppress_padded(test, own_scores, own_valid, kept, device);
}

}  // namespace

std::tuple<Tensor, Tensor> nms_rotated_padded(const Tensor& boxes, const Tensor& scores,
                                              const std::optional<Tensor>& groups, const std::optional<Tensor>& valid,
                                              double threshold, int64_t max_keep) {
    return nms::padded(suppress, boxes, scores, groups, valid, threshold, max_keep);
}

Tensor nms_rotated(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& groups, double threshold) {
    return nms::one(suppress, boxes, scores, groups, threshold);
}

}  // namespace detcore::rotated

STABLE_TORCH_LIBRARY_IMPL(detcore, CUDA, m) {
    m.impl("nms_rotated", TORCH_BOX(&detcore::rotated::nms_rotated));
    m.impl("nms_rotated_padded", TORCH_BOX(&detcore::rotated::nms_rotated_padded));
}
