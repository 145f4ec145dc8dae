// Anchors against ground truth without their matrix, in two launches. A block holds a strip of anchors in registers and
// lets the ground truths pass through shared memory; what low quality matches need from other blocks waits for the
// second launch, which looks only at ground truths that reach their best IoU in its strip.
#include <tuple>

#include "common/cuda.h"
#include "matching/op.h"
#include "matching/strip.h"

namespace detcore::matching {
namespace {

template <class A>
struct Problem {
    const A* anchors;
    int64_t image_stride;  // from one image's anchors to the next one's: 0 where they share them
    const A* gt_boxes;
    const bool* valid;
    int64_t batch, count, num_gt;
    A negative, positive;
    Bits<A>* reached;        // (B, M): the best IoU of each ground truth
    Bits<A>* strip_reached;  // (strips, B, M): the best in each strip, or anything below `reached`
    int64_t* matched;
    int8_t* status;
};

// Blocks go through the images first: so later strips start from what earlier ones of the same image have reached.
template <class A>
struct Place {
    int64_t image, strip, first;

    __device__ explicit Place(const Problem<A>& problem)
        : image(blockIdx.x % problem.batch), strip(blockIdx.x / problem.batch), first(strip * kStrip) {}
};

template <class A, bool low_quality>
__global__ void __launch_bounds__(kThreads, sizeof(A) == 4 ? 4 : 2) match(const Problem<A> problem) {
    __shared__ Passing<A> passing;
    __shared__ int scratch[kWarps];
    __shared__ A corners[4][kWarps];
    const Place<A> place(problem);
    Box<A> anchors[kPerThread];
    load(anchors, problem.anchors + place.image * problem.image_stride, place.first, problem.count);
    const Box<A> hull = block_hull(anchors, corners);
    A best[kPerThread] = {};
    int matched[kPerThread] = {};
    bool any = false;
    for (int64_t start = 0; start < problem.num_gt; start += kThreads) {
        const int64_t g = start + threadIdx.x, at = place.image * problem.num_gt + g;
        const bool is_valid = g < problem.num_gt && problem.valid[at];
        const Box<A> box = is_valid ? read_box(problem.gt_boxes + 4 * at) : nowhere<A>();
        // What meets no anchor of the strip has IoU 0 with all.
        const bool stays = box.x2 > hull.x1 && hull.x2 > box.x1 && box.y2 > hull.y1 && hull.y2 > box.y1;
        // One step below what is known to be reached: so what equals it is still above.
        Bits<A> bound = 0;
        if (low_quality && stays) bound = max(volatile_load(problem.reached + at), Bits<A>{1}) - 1;
        any |= is_valid;
        int slot;
        const int size = compact(stays, slot, scratch);
        if (stays) passing.put(slot, box, bound, static_cast<int>(g));
        __syncthreads();
        for (int i = 0; i < size; ++i) meet<low_quality>(anchors, passing, i, best, matched);
        __syncthreads();
        if (low_quality && g < problem.num_gt) {
            const Bits<A> own = stays ? passing.reached[slot] : 0;
            if (own > bound) atomicMax(problem.reached + at, own);
            problem.strip_reached[place.strip * problem.batch * problem.num_gt + at] = own;
        }
        __syncthreads();
    }
    any = __syncthreads_or(any);
#pragma unroll
    for (int k = 0; k < kPerThread; ++k) {
        const int64_t anchor = place.first + k * kThreads + threadIdx.x;
        if (anchor >= problem.count) continue;
        const int64_t to = place.image * problem.count + anchor;
        problem.matched[to] = matched[k];
        problem.status[to] = any ? status_of(best[k], problem.negative, problem.positive) : kNegative;
    }
}

template <class A>
__global__ void __launch_bounds__(kThreads) add_low_quality(const Problem<A> problem) {
    __shared__ Passing<A> passing;
    __shared__ int scratch[kWarps];
    const Place<A> place(problem);
    Box<A> anchors[kPerThread];
    bool loaded = false, low_quality[kPerThread] = {};
    for (int64_t start = 0; start < problem.num_gt; start += kThreads) {
        const int64_t g = start + threadIdx.x, at = place.image * problem.num_gt + g;
        const Bits<A> most = g < problem.num_gt ? problem.reached[at] : 0;
        const bool stays = most > 0 && problem.strip_reached[place.strip * problem.batch * problem.num_gt + at] == most;
        int slot;
        const int size = compact(stays, slot, scratch);
        if (size == 0) continue;
        if (stays) passing.put(slot, read_box(problem.gt_boxes + 4 * at), most, static_cast<int>(g));
        if (!loaded) load(anchors, problem.anchors + place.image * problem.image_stride, place.first, problem.count);
        loaded = true;
        __syncthreads();
        for (int i = 0; i < size; ++i) {
            const Box<A> box = passing.box(i);
            const Bits<A> wanted = passing.reached[i];
#pragma unroll
            for (int k = 0; k < kPerThread; ++k) low_quality[k] |= to_bits(iou(anchors[k], box)) == wanted;
        }
        __syncthreads();
    }
#pragma unroll
    for (int k = 0; k < kPerThread; ++k) {
        const int64_t anchor = place.first + k * kThreads + threadIdx.x;
        if (low_quality[k]) problem.status[place.image * problem.count + anchor] = kPositive;
    }
}

template <class A>
void launch(const Tensor& anchors, const Tensor& gt_boxes, const Tensor& valid, Problem<A> problem, bool low_quality) {
    const OnDevice device(gt_boxes);
    const Tensor own_anchors = as<A>(anchors), own_gt = as<A>(gt_boxes), own_valid = as<bool>(valid);
    problem.anchors = data<A>(own_anchors);
    problem.image_stride = own_anchors.size(0) == 1 ? 0 : problem.count * 4;
    problem.gt_boxes = data<A>(own_gt);
    problem.valid = data<bool>(own_valid);
    const int64_t strips = (problem.count + kStrip - 1) / kStrip, blocks = strips * problem.batch;
    STD_TORCH_CHECK(blocks < int64_t{1} << 31, "too many anchors: ", problem.batch, " x ", problem.count);
    STD_TORCH_CHECK(problem.num_gt < int64_t{1} << 31, "too many ground truths: ", problem.num_gt);
    const auto grid = static_cast<unsigned>(blocks);
    if (!low_quality || problem.num_gt == 0) {
        match<A, false><<<grid, kThreads, 0, device.stream()>>>(problem);
        STD_CUDA_KERNEL_LAUNCH_CHECK();
        return;
    }
    constexpr ScalarType bits = sizeof(A) == 8 ? ScalarType::Long : ScalarType::Int;
    const Tensor reached = new_tensor_on(gt_boxes, {problem.batch, problem.num_gt}, bits);
    const Tensor strip_reached = new_tensor_on(gt_boxes, {strips, problem.batch, problem.num_gt}, bits);
    problem.reached = static_cast<Bits<A>*>(reached.mutable_data_ptr());
    problem.strip_reached = static_cast<Bits<A>*>(strip_reached.mutable_data_ptr());
    STD_CUDA_CHECK(cudaMemsetAsync(problem.reached, 0, reached.numel() * sizeof(A), device.stream()));
    match<A, true><<<grid, kThreads, 0, device.stream()>>>(problem);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    add_low_quality<A><<<grid, kThreads, 0, device.stream()>>>(problem);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace

std::tuple<Tensor, Tensor> match_anchors(const Tensor& anchors, const Tensor& gt_boxes, const Tensor& valid,
                                         double negative, double positive, bool low_quality) {
    const int64_t batch = gt_boxes.size(0), count = anchors.size(1), num_gt = gt_boxes.size(1);
    Tensor matched = new_tensor_on(gt_boxes, {batch, count}, ScalarType::Long);
    Tensor status = new_tensor_on(gt_boxes, {batch, count}, ScalarType::Char);
    if (batch == 0 || count == 0) return {matched, status};
    const auto run = [&]<class A>(A) {
        Problem<A> problem{};
        problem.batch = batch, problem.count = count, problem.num_gt = num_gt;
        problem.negative = static_cast<A>(negative), problem.positive = static_cast<A>(positive);
        problem.matched = mutable_data<int64_t>(matched), problem.status = mutable_data<int8_t>(status);
        launch<A>(anchors, gt_boxes, valid, problem, low_quality);
    };
    gt_boxes.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
    return {matched, status};
}

}  // namespace detcore::matching

STABLE_TORCH_LIBRARY_IMPL(detcore, CUDA, m) {
    m.impl("match_anchors", TORCH_BOX(&detcore::matching::match_anchors));
}
