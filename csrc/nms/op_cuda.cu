#include "nms/greedy_cuda.h"
#include "nms/op.h"

namespace detcore::nms {
namespace {

template <class A>
class Upright {
  public:
    struct alignas(16) Glance {
        A x1, y1, x2, y2;
    };

    // groups, by index, and groups_by_place: null if all boxes are of one.
    Upright(const A* boxes, const int64_t* groups, double threshold, Glance* glances, int64_t* groups_by_place)
        : boxes_(boxes), groups_(groups), threshold_(threshold), glances_(glances), groups_by_place_(groups_by_place) {}

    static __device__ Glance blank() {
        constexpr A kNone = std::numeric_limits<A>::quiet_NaN();
        return {kNone, kNone, kNone, kNone};
    }

    __device__ void put(int64_t place, int64_t index) const {
        const A* box = boxes_ + 4 * index;
        glances_[place] = index < 0 ? blank() : Glance{box[0], box[1], box[2], box[3]};
        if (groups_ && index >= 0) groups_by_place_[place] = groups_[index];
    }

    __device__ Glance load(int64_t place) const { return glances_[place]; }

    // Boxes that do not meet have the IoU 0, which only a negative threshold lies below.
    __device__ bool near(const Glance& better, const Glance& worse) const {
        return meet(better, worse) | threshold_.is_negative();
    }

    __device__ bool likely(const Glance& better, const Glance& worse, int64_t place, int64_t worse_place) const {
        return threshold_.may_be_below(overlap(box_of(better), box_of(worse))) &&
               (!groups_ || groups_by_place_[place] == groups_by_place_[worse_place]);
    }

    __device__ bool suppresses(const Glance& better, const Glance& worse, int64_t, int64_t) const {
        return threshold_.is_below(overlap(box_of(better), box_of(worse)));
    }

  private:
    static __device__ Box<A> box_of(const Glance& g) { return {g.x1, g.y1, g.x2, g.y2, area(g.x1, g.y1, g.x2, g.y2)}; }

    const A* boxes_;
    const int64_t* groups_;
    Threshold<A> threshold_;
    Glance* glances_;
    int64_t* groups_by_place_;
};

template <class A>
void ask_as(const Tensor& boxes, const std::optional<Tensor>& groups, double threshold, Question& q,
            const OnDevice& device) {
    using Glance = typename Upright<A>::Glance;
    const Tensor own_boxes = as<A>(boxes);
    const int64_t count = q.num_images * q.num_boxes, bytes = count * static_cast<int64_t>(sizeof(Glance));
    std::optional<Tensor> own_groups;
    if (groups) own_groups = as<int64_t>(*groups);
    const Tensor memory = new_tensor_on(boxes, {bytes + (groups ? 8 * count : 0)}, ScalarType::Byte);
    auto* glances = mutable_data<uint8_t>(memory);
    answer(Upright<A>(data<A>(own_boxes), own_groups ? data<int64_t>(*own_groups) : nullptr, threshold,
                      reinterpret_cast<Glance*>(glances), reinterpret_cast<int64_t*>(glances + bytes)),
           q, device);
}

void ask(const Tensor& boxes, const std::optional<Tensor>& groups, double threshold, Question& q,
         const OnDevice& device) {
    const auto run = boxes.scalar_type() == ScalarType::Double ? ask_as<double> : ask_as<float>;
    run(boxes, groups, threshold, q, device);
}

}  // namespace

std::tuple<Tensor, Tensor> nms_padded(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& groups,
                                      const std::optional<Tensor>& valid, double threshold, int64_t max_keep) {
    return padded(ask, boxes, scores, groups, valid, threshold, max_keep);
}

Tensor nms(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& groups, double threshold) {
    return one(ask, boxes, scores, groups, threshold);
}

}  // namespace detcore::nms

STABLE_TORCH_LIBRARY_IMPL(detcore, CUDA, m) {
    m.impl("nms", TORCH_BOX(&detcore::nms::nms));
    m.impl("nms_padded", TORCH_BOX(&detcore::nms::nms_padded));
}
