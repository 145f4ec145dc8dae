#include <bit>
#include <cub/device/device_radix_sort.cuh>

#include "nms/sort.h"

namespace detcore::nms {
namespace {

constexpr int kThreads = 256;

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
void sort(const Tensor& scores, const bool* valid, int64_t images, int64_t num_boxes, int32_t* order,
          const OnDevice& device) {
    const int64_t at_once = sizeof(A) == 4 ? images : 1, count = at_once * num_boxes;
    const int bits = sizeof(A) == 4 ? 32 + std::bit_width(static_cast<uint64_t>(images - 1)) : 64;
    const Tensor keys = new_tensor_on(scores, {2, count}, ScalarType::Long);
    const Tensor indices = new_tensor_on(scores, {count}, ScalarType::Int);
    auto* keys_in = reinterpret_cast<uint64_t*>(mutable_data<int64_t>(keys));
    auto* indices_in = mutable_data<int32_t>(indices);
    const auto sort_pairs = [&](void* memory, size_t& bytes, int32_t* sorted) {
        STD_CUDA_CHECK(cub::DeviceRadixSort::SortPairs(memory, bytes, keys_in, keys_in + count, indices_in, sorted,
                                                       static_cast<int>(count), 0, bits, device.stream()));
    };
    size_t bytes = 0;
    sort_pairs(nullptr, bytes, order);
    const Tensor memory = new_tensor_on(scores, {static_cast<int64_t>(bytes)}, ScalarType::Byte);
    for (int64_t first = 0; first < images * num_boxes; first += count) {
        write_keys<<<blocks_for(count, kThreads), kThreads, 0, device.stream()>>>(
            data<A>(scores) + first, valid ? valid + first : nullptr, count, num_boxes, keys_in, indices_in);
        STD_CUDA_KERNEL_LAUNCH_CHECK();
        sort_pairs(mutable_data<uint8_t>(memory), bytes, order + first);
    }
}

}  // namespace

void order_by_radix_sort(const Tensor& scores, const bool* valid, int64_t images, int64_t num_boxes, int32_t* order,
                         const OnDevice& device) {
    if (scores.scalar_type() == ScalarType::Double) {
        sort<double>(scores, valid, images, num_boxes, order, device);
    } else {
        sort<float>(scores, valid, images, num_boxes, order, device);
    }
}

}  // namespace detcore::nms
