// The order in which boxes are looked at, on a GPU.
#pragma once

#include "common/cuda.h"

namespace detcore::nms {

// order (B, N): indices of an image's valid boxes by falling score, of equal scores the lower index first, NaN counting
// as the highest score; then -1 for each invalid one. scores (B, N), contiguous, float or double; valid: null if all
// are. B * N must be below 2^31.
void order_by_score(const Tensor& scores, const bool* valid, int32_t* order, const OnDevice& device);

}  // namespace detcore::nms
