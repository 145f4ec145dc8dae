#include "random/op.h"

#include "common/parallel.h"
#include "common/tensor.h"
#include "random/lanes.h"
#include "random/rows.h"

namespace detcore::random {
namespace {

constexpr int64_t kBlock = 8192, kLanes = 16;

// From the upper 24 bits.
inline float uniform(uint32_t word) {
    return static_cast<float>(static_cast<int32_t>(word >> 8)) * 0x1p-24f;
}

}  // namespace

Tensor keyed_uniform(const Tensor& seed, const Tensor& step, const Tensor& sample_ids, int64_t site,
                     const Tensor& candidate_ids) {
    const Tensor samples = as<int64_t>(sample_ids), candidates = as<int64_t>(candidate_ids);
    const Tensor seeds = as<int64_t>(seed), steps = as<int64_t>(step);
    const int64_t batch = samples.size(0), stride = row_stride(candidates, batch);
    const int64_t count = candidates.size(candidates.dim() - 1);
    const auto bits = static_cast<uint64_t>(*data<int64_t>(seeds));
    const Key key{static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32)};
    const auto c2 = static_cast<uint32_t>(*data<int64_t>(steps)), c3 = static_cast<uint32_t>(site);
    Tensor out = new_tensor({batch, count}, ScalarType::Float);
    const int64_t blocks = (count + kBlock - 1) / kBlock;
    parallel_tasks(batch * blocks, [&](int64_t task) {
        const int64_t row = task / blocks, first = task % blocks * kBlock, size = std::min(kBlock, count - first);
        const int64_t* ids = data<int64_t>(candidates) + row * stride + first;
        const auto c1 = static_cast<uint32_t>(data<int64_t>(samples)[row]);
        float* to = mutable_data<float>(out) + row * count + first;
        int64_t i = 0;
        for (; i + kLanes <= size; i += kLanes) {
            uint32_t words[kLanes];
            philox_first_words(ids + i, c1, c2, c3, key, words);
            for (int64_t k = 0; k < kLanes; ++k) to[i + k] = uniform(words[k]);
        }
        for (; i < size; ++i) to[i] = uniform(philox_first_word(static_cast<uint32_t>(ids[i]), c1, c2, c3, key));
    });
    return out;
}

}  // namespace detcore::random

STABLE_TORCH_LIBRARY_IMPL(detcore, CPU, m) {
    m.impl("keyed_uniform", TORCH_BOX(&detcore::random::keyed_uniform));
}
