// How the candidates' numbers are spread over the images.
#pragma once

#include "common/tensor.h"

namespace detcore::random {

// From one image's candidates to the next one's: 0 where all images share them, as in (N) and (1, N).
inline int64_t row_stride(const Tensor& candidates, int64_t batch) {
    if (candidates.dim() == 1) return 0;
    STD_TORCH_CHECK(candidates.dim() == 2 && (candidates.size(0) == batch || candidates.size(0) == 1),
                    "candidate_ids must be (N) or (B, N), as many rows as sample_ids");
    return candidates.size(0) == 1 ? 0 : candidates.size(1);
}

}  // namespace detcore::random
