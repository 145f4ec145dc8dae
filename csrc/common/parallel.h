// Work shared between torch's threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace detcore {

// Calls task(i) for every i below count, each on whichever thread is free. Tasks must not write to the same place, so
// that the result has the same bits for any number of threads.
template <class F>
void parallel_tasks(int64_t count, const F& task) {
    std::atomic<int64_t> next{0};
    const auto work = [&](int64_t, int64_t) {
        for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) task(i);
    };
    const int64_t threads = std::min<int64_t>(count, torch::stable::get_num_threads());
    if (threads <= 1) {
        work(0, 1);
    } else {
        torch::stable::parallel_for(0, threads, 1, work);
    }
}

}  // namespace detcore
