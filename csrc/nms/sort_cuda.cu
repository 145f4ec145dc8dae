#include <bit>
#include <cub/device/device_radix_sort.cuh>

#include "nms/sort.h"

namespace detcore::nms {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp, kKeysAtOnce = 2048, kKeysOfWarp = kKeysAtOnce / kWarps;

// Up to so many comparisons, counting the better boxes of each box takes less time than a radix sort's many launches.
constexpr int64_t kMostComparisons = int64_t{1} << 28;

template <class A>
using Key = std::conditional_t<sizeof(A) == 8, uint64_t, uint32_t>;

// Rises where the score falls; invalid boxes come last, and no key is so large that one more could not be added.
template <class A>
__device__ Key<A> key_of(A score, bool valid) {
    using K = Key<A>;
    constexpr K kSign = K(1) << (8 * sizeof(K) - 1);
    if (!valid) return static_cast<K>(~K(0) - 1);
    if (score != score) return 0;
    const K bits = std::bit_cast<K>(score == 0 ? A(0) : score);  // -0 equals 0
    return bits & kSign ? bits : static_cast<K>(~(bits ^ kSign));
}

// A box's place is the number of boxes before it. A block has 32 boxes of an image, one to a lane; its warps share the
// boxes that these are compared with.
template <class A>
__global__ void __launch_bounds__(kThreads)
    order_by_counting(const A* scores, const bool* valid, int64_t num_boxes, int64_t blocks_of_image, int32_t* order) {
    __shared__ alignas(16) Key<A> keys[kKeysAtOnce];
    __shared__ int counts[kWarps][kWarp];
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
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
    order[base + place] = !valid || valid[base + own] ? static_cast<int32_t>(own) : -1;
}

// Keys of `count` boxes, which are those of whole images; the image is the key's upper half if keys leave it room.
template <class A>
__global__ void write_keys(const A* scores, const bool* valid, int64_t count, int64_t num_boxes, uint64_t* keys,
                           int32_t* indices) {
    const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const bool alive = !valid || valid[i];
    const int64_t image = i / num_boxes;
    keys[i] = key_of(scores[i], alive);
    if constexpr (sizeof(A) == 4) keys[i] |= static_cast<uint64_t>(image) << 32;
    indices[i] = alive ? static_cast<int32_t>(i - image * num_boxes) : -1;
}

// In one sort of all images if the keys leave room for the image, else image by image.
template <class A>
void order_by_radix_sort(const Tensor& scores, const bool* valid, int32_t* order, const OnDevice& device) {
    const int64_t batch = scores.size(0), num_boxes = scores.size(1), images = sizeof(A) == 4 ? batch : 1;
    const int64_t count = images * num_boxes;
    const int bits = sizeof(A) == 4 ? 32 + std::bit_width(static_cast<uint64_t>(images - 1)) : 64;
    const Tensor keys = new_tensor_on(scores, {2, count}, ScalarType::Long);
    const Tensor indices = new_tensor_on(scores, {count}, ScalarType::Int);
    auto* keys_in = reinterpret_cast<uint64_t*>(mutable_data<int64_t>(keys));
    auto* indices_in = mutable_data<int32_t>(indices);
    const auto sort = [&](void* memory, size_t& bytes, int32_t* sorted) {
        STD_CUDA_CHECK(cub::DeviceRadixSort::SortPairs(memory, bytes, keys_in, keys_in + count, indices_in, sorted,
                                                       static_cast<int>(count), 0, bits, device.stream()));
    };
    size_t bytes = 0;
    sort(nullptr, bytes, order);
    const Tensor memory = new_tensor_on(scores, {static_cast<int64_t>(bytes)}, ScalarType::Byte);
    for (int64_t first = 0; first < batch * num_boxes; first += count) {
        write_keys<<<blocks_for(count, kThreads), kThreads, 0, device.stream()>>>(
            data<A>(scores) + first, valid ? valid + first : nullptr, count, num_boxes, keys_in, indices_in);
        STD_CUDA_KERNEL_LAUNCH_CHECK();
        sort(mutable_data<uint8_t>(memory), bytes, order + first);
    }
}

template <class A>
void order_any(const Tensor& scores, const bool* valid, int32_t* order, const OnDevice& device) {
    const int64_t batch = scores.size(0), num_boxes = scores.size(1);
    if (num_boxes > kMostComparisons / num_boxes / batch) return order_by_radix_sort<A>(scores, valid, order, device);
    const int64_t blocks_of_image = (num_boxes + kWarp - 1) / kWarp;
    order_by_counting<A><<<static_cast<unsigned>(batch * blocks_of_image), kThreads, 0, device.stream()>>>(
        data<A>(scores), valid, num_boxes, blocks_of_image, order);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace

void order_by_score(const Tensor& scores, const bool* valid, int32_t* order, const OnDevice& device) {
    if (scores.numel() == 0) return;
    if (scores.scalar_type() == ScalarType::Double) {
        order_any<double>(scores, valid, order, device);
    } else {
        order_any<float>(scores, valid, order, device);
    }
}

}  // namespace detcore::nms
