// Fresh memory of many megabytes.
#pragma once

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace detcore {

// Asks for large pages: the first touch of fresh memory, page by page of four kilobytes, can take longer than all that
// an operator computes.
inline void prefer_large_pages(void* memory, int64_t bytes) {
#if defined(MADV_HUGEPAGE)
    constexpr int64_t kLargePage = int64_t{1} << 21;
    if (bytes < 2 * kLargePage) return;
    const auto address = reinterpret_cast<intptr_t>(memory);
    const intptr_t begin = (address + kLargePage - 1) / kLargePage * kLargePage;
    const intptr_t end = (address + bytes) / kLargePage * kLargePage;
    // Whether it is granted or not, the memory is as good.
    madvise(reinterpret_cast<void*>(begin), static_cast<size_t>(end - begin), MADV_HUGEPAGE);
#else
    static_cast<void>(memory), static_cast<void>(bytes);
#endif
}

}  // namespace detcore
