// The launches of a suppression on a GPU; tile.h says what `Test` is.
#pragma once

#include <optional>
#include <tuple>

#include "nms/sort.h"
#include "nms/tile.h"

namespace detcore::nms {

// Makes the memory ready in which tiles tell of themselves.
inline __device__ void clear(const Batch& batch) {
    const int64_t step = int64_t{gridDim.x} * blockDim.x, begin = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
    for (int64_t i = begin; i < batch.num_images * batch.tiles; i += step) batch.words[i] = 0;
    if (begin == 0) *batch.ticket = 0;
}

// The box at an index of its image, -1 for none, gets a place.
template <class Test>
__device__ void put(const Test& test, const Batch& batch, int64_t place, int64_t index) {
    batch.order[place] = static_cast<int32_t>(index);
    test.put(place, index < 0 ? -1 : place / batch.num_boxes * batch.num_boxes + index);
}

constexpr int kWarps = kThreads / kWarp, kKeysAtOnce = 2048, kKeysOfWarp = kKeysAtOnce / kWarps;

// Up to so many comparisons, counting the better boxes of each box takes less time than a radix sort's many launches.
constexpr int64_t kMostComparisons = int64_t{1} << 28;

// A box's place is the number of boxes before it. A block has 32 boxes of an image, one to a lane; its warps share the
// boxes that these are compared with.
template <class Test, class A>
__global__ void __launch_bounds__(kThreads)
    place_by_counting(const Test test, const Batch batch, const A* scores, const bool* valid, int64_t blocks_of_image) {
    __shared__ alignas(16) Key<A> keys[kKeysAtOnce];
    __shared__ int counts[kWarps][kWarp];
    clear(batch);
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    const int64_t num_boxes = batch.num_boxes;
    const int64_t image = blockIdx.x / blocks_of_image, block = blockIdx.x % blocks_of_image;
    const int64_t base = image * num_boxes, first = block * kWarp, own = first + lane;
    const auto key_at = [&](int64_t i) {
        return i < num_boxes ? key_of(scores[base + i], !valid || valid[base + i]) : static_cast<Key<A>>(~Key<A>(0));
    };
    const Key<A> key = key_at(own);
    int count = 0;
    for (int64_t start = 0; start < num_boxes; start += kKeysAtOnce) {
        __syncthreads();
        for (int k = threadIdx.x; k < kKeysAtOnce; k += kThreads) keys[k] = key_at(start + k);
        __syncthreads();
        const Key<A>* theirs = keys + warp * kKeysOfWarp;
        const int64_t begin = start + warp * kKeysOfWarp;
        if (begin <= first && first < begin + kKeysOfWarp) {
            for (int k = 0; k < kKeysOfWarp; ++k) count += theirs[k] < key + (begin + k < own);
        } else {
            const Key<A> bound = key + (begin < first);  // equal ones with a lower index come before it too
#pragma unroll 16
            for (int k = 0; k < kKeysOfWarp; ++k) count += theirs[k] < bound;
        }
    }
    counts[warp][lane] = count;
    __syncthreads();
    if (warp || own >= num_boxes) return;
    int place = 0;
    for (int w = 0; w < kWarps; ++w) place += counts[w][lane];
    put(test, batch, base + place, !valid || valid[base + own] ? own : -1);
}

// For boxes that are in order.
template <class Test>
__global__ void gather(const Test test, const Batch batch) {
    clear(batch);
    const int64_t step = int64_t{gridDim.x} * blockDim.x, begin = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
    for (int64_t place = begin; place < batch.num_images * batch.num_boxes; place += step)
        put(test, batch, place, batch.order[place]);
}

template <class Test>
__global__ void __launch_bounds__(kThreads) suppress(const Test test, const Batch batch) {
    __shared__ TileMemory<Test> memory;
    Tile<Test>(test, batch, memory).run();
}

// What is asked: scores (B, N), contiguous, float or double; valid, null if all are; and where the result goes:
// indices (B, max_keep), and their numbers (B), which may be in pinned memory of the host.
struct Question {
    Tensor scores;
    const bool* valid;
    int64_t num_images, num_boxes, max_keep;
    Tensor keep, count;
};

template <class Test>
void put_in_order(const Test& test, const Question& q, const Batch& batch, const OnDevice& device) {
    if (q.num_boxes > kMostComparisons / q.num_boxes / q.num_images) {
        order_by_radix_sort(q.scores, q.valid, q.num_images, q.num_boxes, batch.order, device);
        const unsigned blocks = blocks_for(q.num_images * q.num_boxes, kThreads);
        gather<<<blocks, kThreads, 0, device.stream()>>>(test, batch);
    } else {
        const int64_t blocks_of_image = (q.num_boxes + kWarp - 1) / kWarp;
        const auto blocks = static_cast<unsigned>(q.num_images * blocks_of_image);
        const auto count = [&]<class A>(A) {
            place_by_counting<<<blocks, kThreads, 0, device.stream()>>>(test, batch, data<A>(q.scores), q.valid,
                                                                        blocks_of_image);
        };
        q.scores.scalar_type() == ScalarType::Double ? count(double{}) : count(float{});
    }
    STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// The test has memory for Glances; test.put(place, index) fills it from the box at index, counted over the whole batch,
// or if that is -1 with one that is near to nothing.
template <class Test>
void answer(const Test& test, Question& q, const OnDevice& device) {
    const int64_t boxes = q.num_images * q.num_boxes;
    STD_TORCH_CHECK(boxes < int64_t{1} << 31, "non-maximum suppression takes less than 2^31 boxes, got ", boxes);
    if (boxes == 0 || q.max_keep == 0) {
        if (q.keep.numel() > 0) torch::stable::zero_(q.keep);
        if (q.num_images > 0) torch::stable::zero_(q.count);
        return;
    }
    const int64_t tiles = (q.num_boxes + kTile - 1) / kTile, num_words = q.num_images * tiles;
    // Words, the ticket, and the order.
    const Tensor memory = new_tensor_on(q.scores, {num_words + 1 + (boxes + 1) / 2}, ScalarType::Long);
    int64_t* words = mutable_data<int64_t>(memory);
    const Batch batch{reinterpret_cast<int32_t*>(words + num_words + 1),
                      reinterpret_cast<uint64_t*>(words),
                      reinterpret_cast<unsigned long long*>(words + num_words),
                      mutable_data<int64_t>(q.keep),
                      mutable_data<int64_t>(q.count),
                      q.num_images,
                      q.num_boxes,
                      tiles,
                      q.max_keep};
    put_in_order(test, q, batch, device);
    suppress<<<static_cast<unsigned>(num_words), kThreads, 0, device.stream()>>>(test, batch);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
}

inline Tensor scores_of(const Tensor& scores) {
    return scores.scalar_type() == ScalarType::Double ? as<double>(scores) : as<float>(scores);
}

// The two forms of an operator. ask(boxes, groups, threshold, question, device) makes the test and calls `answer`.
template <class F>
std::tuple<Tensor, Tensor> padded(const F& ask, const Tensor& boxes, const Tensor& scores,
                                  const std::optional<Tensor>& groups, const std::optional<Tensor>& valid,
                                  double threshold, int64_t max_keep) {
    const OnDevice device(boxes);
    std::optional<Tensor> own_valid;
    if (valid) own_valid = as<bool>(*valid);
    const int64_t images = boxes.size(0);
    Question q{scores_of(scores),
               own_valid ? data<bool>(*own_valid) : nullptr,
               images,
               boxes.size(1),
               max_keep,
               new_tensor_on(boxes, {images, max_keep}, ScalarType::Long),
               new_tensor_on(boxes, {images}, ScalarType::Long)};
    ask(boxes, groups, threshold, q, device);
    return {q.keep, q.count};
}

// Waits for the device, to know the length of its result, which the kernel writes to the host's memory itself: a copy
// after it would take as long as the kernel.
template <class F>
Tensor one(const F& ask, const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& groups,
           double threshold) {
    const OnDevice device(boxes);
    const int64_t num_boxes = boxes.size(0);
    Question q{scores_of(scores),
               nullptr,
               1,
               num_boxes,
               num_boxes,
               new_tensor_on(boxes, {num_boxes}, ScalarType::Long),
               torch::stable::empty({int64_t{1}}, ScalarType::Long, std::nullopt, std::nullopt, true)};
    ask(boxes, groups, threshold, q, device);
    STD_CUDA_CHECK(cudaStreamSynchronize(device.stream()));
    return torch::stable::narrow(q.keep, 0, 0, *data<int64_t>(q.count));
}

}  // namespace detcore::nms
