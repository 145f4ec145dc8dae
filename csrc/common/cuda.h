// What every CUDA operator needs around its kernels, and in them.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/headeronly/util/shim_utils.h>

#include <algorithm>
#include <cstdint>

#include "common/tensor.h"

namespace detcore {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// Makes a tensor's device the current one, for as long as this lives; stream: torch's current one there.
class OnDevice {
  public:
    explicit OnDevice(const Tensor& tensor) : index_(tensor.get_device_index()), guard_(index_) {
        void* handle = nullptr;
        TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &handle));
        stream_ = static_cast<cudaStream_t>(handle);
    }

    cudaStream_t stream() const { return stream_; }

    int num_multiprocessors() const {
        int count = 0;
        STD_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, index_));
        return count;
    }

  private:
    int32_t index_;
    torch::stable::accelerator::DeviceGuard guard_;
    cudaStream_t stream_;
};

// Blocks that cover `count` items, no more than a grid may have in x; kernels loop over what is left.
inline unsigned blocks_for(int64_t count, int64_t per_block) {
    return static_cast<unsigned>(std::min<int64_t>(std::max<int64_t>((count + per_block - 1) / per_block, 1), 1 << 30));
}

inline Tensor new_tensor_on(const Tensor& like, const std::vector<int64_t>& sizes, ScalarType type,
                            bool channels_last = false) {
    return new_tensor(sizes, type, channels_last, like.device());
}

// `count` neighbours in memory, moved by one instruction where they have 4, 8 or 16 bytes together.
template <class T, int count>
struct alignas(sizeof(T) * count) Pack {
    T values[count];

    static __device__ Pack load(const T* from) { return *reinterpret_cast<const Pack*>(from); }
    __device__ void store(T* to) const { *reinterpret_cast<Pack*>(to) = *this; }
};

// How many numbers of a type make 16 bytes.
template <class T>
constexpr int kPackOf16Bytes = 16 / static_cast<int>(sizeof(T));

// Whether packs of `count` numbers can be read from the pointer on, in rows of `row` numbers.
template <class T>
inline bool packs(const T* pointer, int64_t row, int count) {
    return row % count == 0 && reinterpret_cast<uintptr_t>(pointer) % (sizeof(T) * count) == 0;
}

}  // namespace detcore
