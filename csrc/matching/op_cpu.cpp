// Anchors against ground truth without their matrix: a strip of anchors meets one ground truth after the other.
#include "matching/op.h"

#include <algorithm>
#include <tuple>
#include <vector>

#include "common/parallel.h"
#include "common/tensor.h"

namespace detcore::matching {
namespace {

constexpr int64_t kStrip = 4096, kLanes = 64;

// Boxes coordinate by coordinate, for the compiler to vectorise.
template <class A>
struct Boxes {
    std::vector<A> x1, y1, x2, y2, area;
    std::vector<int64_t> index;

    void resize(int64_t size) {
        for (auto* values : {&x1, &y1, &x2, &y2, &area}) values->resize(size);
        index.resize(size);
    }
    void set(int64_t at, const Box<A>& box, int64_t own_index) {
        x1[at] = box.x1, y1[at] = box.y1, x2[at] = box.x2, y2[at] = box.y2, area[at] = box.area;
        index[at] = own_index;
    }
};

// IoU of ground truth g with the anchors from `first` on, 64 of them.
template <class A>
inline void overlaps(const Boxes<A>& anchors, int64_t first, const Boxes<A>& truth, int64_t g, A* out) {
    const Box<A> own{truth.x1[g], truth.y1[g], truth.x2[g], truth.y2[g], truth.area[g]};
    const A *x1 = &anchors.x1[first], *y1 = &anchors.y1[first], *x2 = &anchors.x2[first], *y2 = &anchors.y2[first];
    const A* area = &anchors.area[first];
    for (int64_t i = 0; i < kLanes; ++i) out[i] = iou<A>({x1[i], y1[i], x2[i], y2[i], area[i]}, own);
}

template <class A>
struct Strip {
    Boxes<A> anchors;
    std::vector<A> best;
    std::vector<int32_t> matched;
};

template <class A>
void load(Strip<A>& strip, const A* anchors, int64_t count) {
    strip.anchors.resize((count + kLanes - 1) / kLanes * kLanes);
    for (int64_t i = 0; i < count; ++i) strip.anchors.set(i, read_box(anchors + 4 * i), i);
    const auto padded = static_cast<int64_t>(strip.anchors.x1.size());
    for (int64_t i = count; i < padded; ++i) strip.anchors.set(i, nowhere<A>(), i);
}

// The best ground truth of each anchor of a strip, and the best IoU that each ground truth reaches in it.
template <class A>
void match_strip(Strip<A>& strip, const Boxes<A>& truth, A* reached) {
    const auto size = static_cast<int64_t>(strip.anchors.x1.size());
    strip.best.assign(size, A(0));
    strip.matched.assign(size, 0);
    A iou[kLanes];
    for (size_t g = 0; g < truth.index.size(); ++g) {
        A most[kLanes] = {};
        const auto own = static_cast<int32_t>(truth.index[g]);
        for (int64_t first = 0; first < size; first += kLanes) {
            overlaps(strip.anchors, first, truth, static_cast<int64_t>(g), iou);
            A* best = &strip.best[first];
            int32_t* matched = &strip.matched[first];
            for (int64_t i = 0; i < kLanes; ++i) {
                matched[i] = iou[i] > best[i] ? own : matched[i];
                best[i] = iou[i] > best[i] ? iou[i] : best[i];
                most[i] = iou[i] > most[i] ? iou[i] : most[i];
            }
        }
        reached[g] = *std::max_element(most, most + kLanes);
    }
}

template <class A>
void match(const Tensor& anchors, const Tensor& gt_boxes, const Tensor& valid, A negative, A positive, bool low_quality,
           int64_t* matched, int8_t* status) {
    const int64_t batch = gt_boxes.size(0), num_gt = gt_boxes.size(1), count = anchors.size(1);
    const int64_t strips = (count + kStrip - 1) / kStrip;
    const Tensor own_anchors = as<A>(anchors), own_gt = as<A>(gt_boxes), own_valid = as<bool>(valid);
    std::vector<Boxes<A>> truth(batch);
    for (int64_t image = 0; image < batch; ++image) {
        const bool* is_valid = data<bool>(own_valid) + image * num_gt;
        const int64_t real = std::count(is_valid, is_valid + num_gt, true);
        truth[image].resize(real);
        for (int64_t g = 0, at = 0; g < num_gt; ++g)
            if (is_valid[g]) truth[image].set(at++, read_box(data<A>(own_gt) + 4 * (image * num_gt + g)), g);
    }
    const auto anchors_of = [&](int64_t image) {
        return data<A>(own_anchors) + (own_anchors.size(0) == 1 ? 0 : image) * count * 4;
    };
    std::vector<A> reached(batch * strips * num_gt);
    parallel_tasks(batch * strips, [&](int64_t task) {
        thread_local Strip<A> strip;
        const int64_t image = task / strips, first = task % strips * kStrip, size = std::min(kStrip, count - first);
        load(strip, anchors_of(image) + 4 * first, size);
        match_strip(strip, truth[image], reached.data() + task * num_gt);
        const bool any = !truth[image].index.empty();
        for (int64_t i = 0; i < size; ++i) {
            const int64_t at = image * count + first + i;
            matched[at] = strip.matched[i];
            status[at] = any ? status_of(strip.best[i], negative, positive) : kNegative;
        }
    });
    if (!low_quality) return;
    // Only strips in which a ground truth reaches its best are looked at again.
    parallel_tasks(batch * strips, [&](int64_t task) {
        thread_local Strip<A> strip;
        const int64_t image = task / strips, first = task % strips * kStrip, size = std::min(kStrip, count - first);
        bool loaded = false;
        for (size_t g = 0; g < truth[image].index.size(); ++g) {
            A most = 0;
            for (int64_t s = 0; s < strips; ++s) most = std::max(most, reached[(image * strips + s) * num_gt + g]);
            if (!(most > 0) || reached[task * num_gt + g] != most) continue;
            if (!loaded) load(strip, anchors_of(image) + 4 * first, size);
            loaded = true;
            A iou[kLanes];
            for (int64_t start = 0; start < size; start += kLanes) {
                overlaps(strip.anchors, start, truth[image], static_cast<int64_t>(g), iou);
                for (int64_t i = 0; i < std::min(kLanes, size - start); ++i)
                    if (iou[i] == most) status[image * count + first + start + i] = kPositive;
            }
        }
    });
}

}  // namespace

std::tuple<Tensor, Tensor> match_anchors(const Tensor& anchors, const Tensor& gt_boxes, const Tensor& valid,
                                         double negative, double positive, bool low_quality) {
    const int64_t batch = gt_boxes.size(0), count = anchors.size(1);
    Tensor matched = new_tensor({batch, count}, ScalarType::Long),
           status = new_tensor({batch, count}, ScalarType::Char);
    auto* matched_data = mutable_data<int64_t>(matched);
    auto* status_data = mutable_data<int8_t>(status);
    if (gt_boxes.scalar_type() == ScalarType::Double) {
        match<double>(anchors, gt_boxes, valid, negative, positive, low_quality, matched_data, status_data);
    } else {
        match<float>(anchors, gt_boxes, valid, static_cast<float>(negative), static_cast<float>(positive), low_quality,
                     matched_data, status_data);
    }
    return {matched, status};
}

}  // namespace detcore::matching

STABLE_TORCH_LIBRARY_IMPL(detcore, CPU, m) {
    m.impl("match_anchors", TORCH_BOX(&detcore::matching::match_anchors));
}
