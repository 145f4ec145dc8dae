// The launches of a suppression on a GPU; tile.h says what `Test` is.
#pragma once

#include <optional>
#include <tuple>

#include "nms/sort.h"
#include "nms/tile.h"

namespace detcore::nms {

// Gives the test its boxes by their places, and sets words and ticket to 0.
template <class Test>
__global__ void gather(const Test test, const Batch batch, int64_t num_words) {
    const int64_t step = int64_t{gridDim.x} * blockDim.x, begin = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
    for (int64_t place = begin; place < batch.num_images * batch.num_boxes; place += step) {
        const int64_t index = batch.order[place];
        test.put(place, index < 0 ? -1 : place / batch.num_boxes * batch.num_boxes + index);
    }
    for (int64_t i = begin; i < num_words; i += step) batch.words[i] = 0;
    if (begin == 0) *batch.ticket = 0;
}

template <class Test>
__global__ void __launch_bounds__(kThreads) suppress(const Test test, const Batch batch) {
    __shared__ TileMemory<Test> memory;
    Tile<Test>(test, batch, memory).run();
}

// Where the result goes: indices (B * max_keep), and their numbers (B), which may be in pinned memory of the host.
struct Kept {
    Tensor indices, count;
    int64_t max_keep;
};

// Of boxes whose scores (B, N) are contiguous floats or doubles. The test has memory for Glances; test.put(place,
// index) fills it from the box at index, counted over the whole batch, or if that is -1 with one that is near to
// nothing.
template <class Test>
void suppress_padded(const Test& test, const Tensor& scores, const std::optional<Tensor>& valid, Kept& kept,
                     const OnDevice& device) {
    const int64_t images = scores.size(0), num_boxes = scores.size(1), boxes = images * num_boxes;
    STD_TORCH_CHECK(boxes < int64_t{1} << 31, "non-maximum suppression takes less than 2^31 boxes, got ", boxes);
    if (boxes == 0 || kept.max_keep == 0) {
        if (kept.indices.numel() > 0) torch::stable::zero_(kept.indices);
        if (images > 0) torch::stable::zero_(kept.count);
        return;
    }
    const int64_t tiles = (num_boxes + kTile - 1) / kTile, num_words = images * tiles;
    const Tensor order = new_tensor_on(scores, {boxes}, ScalarType::Int);
    const Tensor words = new_tensor_on(scores, {num_words + 1}, ScalarType::Long);
    auto* first_word = reinterpret_cast<uint64_t*>(mutable_data<int64_t>(words));
    const Batch batch{mutable_data<int32_t>(order),
                      first_word,
                      reinterpret_cast<unsigned long long*>(first_word + num_words),
                      mutable_data<int64_t>(kept.indices),
                      mutable_data<int64_t>(kept.count),
                      images,
                      num_boxes,
                      tiles,
                      kept.max_keep};
    order_by_score(scores, valid ? data<bool>(*valid) : nullptr, mutable_data<int32_t>(order), device);
    gather<<<blocks_for(boxes, kThreads), kThreads, 0, device.stream()>>>(test, batch, num_words);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    suppress<<<static_cast<unsigned>(images * tiles), kThreads, 0, device.stream()>>>(test, batch);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// The two forms of an operator. suppress(boxes, scores, groups, valid, threshold, kept, device) takes batches.
template <class F>
std::tuple<Tensor, Tensor> padded(const F& suppress, const Tensor& boxes, const Tensor& scores,
                                  const std::optional<Tensor>& groups, const std::optional<Tensor>& valid,
                                  double threshold, int64_t max_keep) {
    const OnDevice device(boxes);
    Kept kept{new_tensor_on(boxes, {boxes.size(0), max_keep}, ScalarType::Long),
              new_tensor_on(boxes, {boxes.size(0)}, ScalarType::Long), max_keep};
    suppress(boxes, scores, groups, valid, threshold, kept, device);
    return {kept.indices, kept.count};
}

// Waits for the device, to know the length of its result, which the kernel writes to the host's memory itself: a copy
// after it would take as long as the kernel.
template <class F>
Tensor one(const F& suppress, const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& groups,
           double threshold) {
    const OnDevice device(boxes);
    std::optional<Tensor> batched;
    if (groups) batched = torch::stable::unsqueeze(*groups, 0);
    const int64_t num_boxes = boxes.size(0);
    Kept kept{new_tensor_on(boxes, {num_boxes}, ScalarType::Long),
              torch::stable::empty({int64_t{1}}, ScalarType::Long, std::nullopt, std::nullopt, true), num_boxes};
    suppress(torch::stable::unsqueeze(boxes, 0), torch::stable::unsqueeze(scores, 0), batched, std::nullopt, threshold,
             kept, device);
    STD_CUDA_CHECK(cudaStreamSynchronize(device.stream()));
    return torch::stable::narrow(kept.indices, 0, 0, *data<int64_t>(kept.count));
}

}  // namespace detcore::nms
