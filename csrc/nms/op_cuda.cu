#include "nms/greedy_cuda.h"
#include "nms/op.h"

namespace detcore::nms {
namespace {

template <class A>
class Upright {
  public:
    struct alignas(16) Glance {
        Box<A> box;
        int64_t group;
    };

    // groups: null if all boxes are of one.
    Upright(const A* boxes, const int64_t* groups, double threshold, Glance* glances)
        : boxes_(boxes), groups_(groups), threshold_(threshold), glances_(glances) {}

    static __device__ Glance blank() {
        constexpr A kNone = std::numeric_limits<A>::quiet_NaN();
        return {{kNone, kNone, kNone, kNone, kNone}, 0};
    }

    __device__ void put(int64_t place, int64_t index) const {
        Glance glance = blank();
        if (index >= 0) {
            const A* box = boxes_ + 4 * index;
            glance.box = {box[0], box[1], box[2], box[3], area(box[0], box[1], box[2], box[3])};
            if (groups_) glance.group = groups_[index];
        }
        glances_[place] = glance;
    }

    __device__ Glance load(int64_t place) const { return glances_[place]; }

    // Boxes that do not meet have the IoU 0, which only a negative threshold lies below.
    __device__ bool near(const Glance& better, const Glance& worse) const {
        return (meet(better.box, worse.box) || threshold_.is_negative()) && better.group == worse.group;
    }

    __device__ bool likely(const Glance& better, const Glance& worse) const {
        return threshold_.may_be_below(overlap(better.box, worse.box));
    }

    __device__ bool suppresses(const Glance& better, const Glance& worse, int64_t, int64_t) const {
        return threshold_.is_below(overlap(better.box, worse.box));
    }

  private:
    const A* boxes_;
    const int64_t* groups_;
    Threshold<A> threshold_;
    Glance* glances_;
};

template <class A>
void suppress_as(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& groups,
                 const std::optional<Tensor>& valid, double threshold, Kept& kept, const OnDevice& device) {
    using Glance = typename Upright<A>::Glance;
    const Tensor own_boxes = as<A>(boxes), own_scores = as<A>(scores);
    std::optional<Tensor> own_groups, own_valid;
    if (groups) own_groups = as<int64_t>(*groups);
    if (valid) own_valid = as<bool>(*valid);
    const auto bytes = own_scores.numel() * static_cast<int64_t>(sizeof(Glance));
    const Tensor glances = new_tensor_on(boxes, {bytes}, ScalarType::Byte);
    const Upright<A> test(data<A>(own_boxes), own_groups ? data<int64_t>(*own_groups) : nullptr, threshold,
                          reinterpret_cast<Glance*>(mutable_data<uint8_t>(glances)));
    suppress_padded(test, own_scores, own_valid, kept, device);
}

void suppress_any(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& groups,
                  const std::optional<Tensor>& valid, double threshold, Kept& kept, const OnDevice& device) {
    const auto run = boxes.scalar_type() == ScalarType::Double ? suppress_as<double> : suppress_as<float>;
    run(boxes, scores, groups, valid, threshold, kept, device);
}

}  // namespace

std::tuple<Tensor, Tensor> nms_padded(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& groups,
                                      const std::optional<Tensor>& valid, double threshold, int64_t max_keep) {
    return padded(suppress_any, boxes, scores, groups, valid, threshold, max_keep);
}

Tensor nms(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& groups, double threshold) {
    return one(suppress_any, boxes, scores, groups, threshold);
}

}  // namespace detcore::nms

STABLE_TORCH_LIBRARY_IMPL(detcore, CUDA, m) {
    m.impl("nms", TORCH_BOX(&detcore::nms::nms));
    m.impl("nms_padded", TORCH_BOX(&detcore::nms::nms_padded));
}
