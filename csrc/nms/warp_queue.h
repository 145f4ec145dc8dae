// Rare work that the lanes of a warp find, each for itself, done by all of them together.
#pragma once

#include "common/cuda.h"

namespace detcore::nms {

class WarpQueue {
  public:
    static constexpr int kCapacity = 2 * kWarp;

    // memory: room for kCapacity items, in shared memory and this warp's own.
    __device__ explicit WarpQueue(uint16_t* memory) : items_(memory), lane_(threadIdx.x % kWarp) {}

    // To be called by the whole warp: takes an item from each lane that gives one, and calls work(item) in all lanes as
    // soon as there is an item for each.
    template <class F>
    __device__ void push(bool gives, int item, const F& work) {
        const unsigned giving = __ballot_sync(kAllLanes, gives);
        if (gives) items_[size_ + __popc(giving & ((1u << lane_) - 1))] = static_cast<uint16_t>(item);
        size_ += __popc(giving);
        if (size_ < kWarp) return;
        __syncwarp();
        size_ -= kWarp;
        work(items_[size_ + lane_]);
        __syncwarp();
    }

    // Does what is left. What `work` wrote to shared memory can then be read by the whole warp.
    template <class F>
    __device__ void finish(const F& work) {
        __syncwarp();
        if (lane_ < size_) work(items_[lane_]);
        size_ = 0;
        __syncwarp();
    }

  private:
    uint16_t* items_;
    int lane_, size_ = 0;
};

}  // namespace detcore::nms
