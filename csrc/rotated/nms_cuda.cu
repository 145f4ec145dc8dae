#include "nms/greedy_cuda.h"
#include "rotated/near.h"

namespace detcore::rotated {
namespace {

// The test of nms/tile.h.
class Turned {
  public:
    using Glance = Circle;

    // groups, by index, and groups_by_place: null if all boxes are of one.
    Turned(const Boxes& boxes, const int64_t* groups, float threshold, Glance* glances, Frame* frames,
           int64_t* groups_by_place)
        : boxes_(boxes),
          groups_(groups),
          threshold_(threshold),
          glances_(glances),
          frames_(frames),
          groups_by_place_(groups_by_place) {}

    static __device__ Glance blank() { return no_circle(); }

    __device__ void put(int64_t place, int64_t index) const {
        if (index < 0) {
            glances_[place] = blank();
            return;
        }
        const Frame frame = frame_of(boxes_[index]);
        glances_[place] = circle_of(frame);
        frames_[place] = frame;
        if (groups_) groups_by_place_[place] = groups_[index];
    }

    __device__ Glance load(int64_t place) const { return glances_[place]; }

    __device__ bool near(const Glance& better, const Glance& worse) const { return rotated::near(better, worse); }

    __device__ bool likely(const Glance&, const Glance&, int64_t better, int64_t worse) const {
        return !groups_ || groups_by_place_[better] == groups_by_place_[worse];
    }

    __device__ bool suppresses(const Glance&, const Glance&, int64_t better, int64_t worse) const {
        return rotated::suppresses(frames_[better], frames_[worse], threshold_);
    }

  private:
    Boxes boxes_;
    const int64_t* groups_;
    float threshold_;
    Glance* glances_;
    Frame* frames_;
    int64_t* groups_by_place_;
};

void ask(const Tensor& boxes, const std::optional<Tensor>& groups, double threshold, nms::Question& q,
         const OnDevice& device) {
    const bool doubles = boxes.scalar_type() == ScalarType::Double;
    const Tensor own_boxes = doubles ? as<double>(boxes) : as<float>(boxes);
    std::optional<Tensor> own_groups;
    if (groups) own_groups = as<int64_t>(*groups);
    const int64_t count = q.num_images * q.num_boxes, bytes_of_box = sizeof(Frame) + sizeof(Circle) + (groups ? 8 : 0);
    const Tensor memory = new_tensor_on(boxes, {count * bytes_of_box}, ScalarType::Byte);
    auto* frames = reinterpret_cast<Frame*>(mutable_data<uint8_t>(memory));
    auto* places = reinterpret_cast<int64_t*>(frames + count);
    auto* glances = reinterpret_cast<Circle*>(places + (groups ? count : 0));
    nms::answer(Turned({own_boxes.const_data_ptr(), doubles}, own_groups ? data<int64_t>(*own_groups) : nullptr,
                       static_cast<float>(threshold), glances, frames, places),
                q, device);
}

}  // namespace

std::tuple<Tensor, Tensor> nms_rotated_padded(const Tensor& boxes, const Tensor& scores,
                                              const std::optional<Tensor>& groups, const std::optional<Tensor>& valid,
                                              double threshold, int64_t max_keep) {
    return nms::padded(ask, boxes, scores, groups, valid, threshold, max_keep);
}

Tensor nms_rotated(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& groups, double threshold) {
    return nms::one(ask, boxes, scores, groups, threshold);
}

}  // namespace detcore::rotated

STABLE_TORCH_LIBRARY_IMPL(detcore, CUDA, m) {
    m.impl("nms_rotated", TORCH_BOX(&detcore::rotated::nms_rotated));
    m.impl("nms_rotated_padded", TORCH_BOX(&detcore::rotated::nms_rotated_padded));
}
