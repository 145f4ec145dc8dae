// The order in which boxes are looked at, on a GPU: by falling score, of equal scores the lower index first, NaN
// counting as the highest score; then invalid boxes.
#pragma once

#include <bit>

#include "common/cuda.h"

namespace detcore::nms {

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

// order (B, N): indices of each image's valid boxes, in their order, then -1 for each invalid one. scores (B, N),
// contiguous, float or double; valid: null if all are. B * N must be above 0 and below 2^31.
void order_by_radix_sort(const Tensor& scores, const bool* valid, int64_t images, int64_t num_boxes, int32_t* order,
                         const OnDevice& device);

}  // namespace detcore::nms
