#include "common/cuda.h"
#include "random/op.h"
#include "random/rows.h"

namespace detcore::random {
namespace {

__global__ void draw(const int64_t* seed, const int64_t* step, const int64_t* samples, uint32_t site,
                     const int64_t* candidates, int64_t stride, int64_t count, float* out) {
    const auto bits = static_cast<uint64_t>(*seed);
    const Key key{static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32)};
    const int64_t* ids = candidates + blockIdx.y * stride;
    const auto c1 = static_cast<uint32_t>(samples[blockIdx.y]), c2 = static_cast<uint32_t>(*step);
    for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
        const uint32_t word = philox_first_word(static_cast<uint32_t>(ids[i]), c1, c2, site, key);
        out[blockIdx.y * count + i] = static_cast<float>(word >> 8) * 0x1p-24f;
    }
}

}  // namespace

Tensor keyed_uniform(const Tensor& seed, const Tensor& step, const Tensor& sample_ids, int64_t site,
                     const Tensor& candidate_ids) {
    const OnDevice device(candidate_ids);
    const Tensor samples = as<int64_t>(sample_ids), candidates = as<int64_t>(candidate_ids);
    const Tensor seeds = as<int64_t>(seed), steps = as<int64_t>(step);
    const int64_t batch = samples.size(0), stride = row_stride(candidates, batch);
    const int64_t count = candidates.size(candidates.dim() - 1);
    Tensor out = new_tensor_on(candidate_ids, {batch, count}, ScalarType::Float);
    // A grid has at most 65,535 rows.
    for (int64_t row = 0; row < batch && count; row += 65535) {
        const dim3 grid(blocks_for(count, 256), static_cast<unsigned>(std::min<int64_t>(batch - row, 65535)));
        draw<<<grid, 256, 0, device.stream()>>>(
            data<int64_t>(seeds), data<int64_t>(steps), data<int64_t>(samples) + row, static_cast<uint32_t>(site),
            data<int64_t>(candidates) + row * stride, stride, count, mutable_data<float>(out) + row * count);
        STD_CUDA_KERNEL_LAUNCH_CHECK();
    }
    return out;
}

}  // namespace detcore::random

STABLE_TORCH_LIBRARY_IMPL(detcore, CUDA, m) {
    m.impl("keyed_uniform", TORCH_BOX(&detcore::random::keyed_uniform));
}
