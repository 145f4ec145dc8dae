// Greedy suppression on a GPU, one kernel for a whole batch: a wave over tiles of 64 boxes.
//
// A block has one tile. With every earlier tile of its image it first finds which of that tile's boxes suppress its
// own, whether they are kept or not, and waits for the word that says which are only if there are any; so that from one
// tile to the next there is but a look at that word, the settling of the tile itself and the publication of its own
// word, and tiles that have nothing to do with each other settle at once.
//
// `Test` says what suppresses: Test::Glance is what a quick look at a box needs; test.load(place) reads it, places
// being those in the sorted order of the whole batch; Test::blank() is near to nothing; test.near(better, worse) is a
// cheap condition for test.suppresses(better, worse, place of better, place of worse).
#pragma once

#include <cuda/atomic>

#include "nms/warp_queue.h"

namespace detcore::nms {

constexpr int kTile = 64, kSlices = 4, kThreads = kTile * kSlices, kWarps = kThreads / kWarp;

// What is known of a batch. Places: images one after the other, the boxes of each in their order.
struct Batch {
    const int32_t* order;  // by place: the box's index in its image, -1 if it is invalid
    uint64_t* words;       // two by tile: 2^32 once it is settled, and below it which 32 boxes are kept
    unsigned long long* ticket;
    int64_t* keep;
    int64_t* count;
    int64_t num_images, num_boxes, tiles, max_keep;
};

// One chunk is four tiles, one for each slice of the block's threads. What threads tell each other while they look at a
// chunk is kept apart by the chunk's parity, with a third place for what they say at the end.
template <class Test>
struct TileMemory {
    typename Test::Glance better[2][kThreads], own[kTile];
    unsigned long long hits[kThreads];  // by slice and own box: which boxes of the slice's tile suppress it
    uint16_t queue[kWarps][WarpQueue::kCapacity];
    unsigned gone[3][kWarps];
    int kept[3][kSlices];  // so many at least
    int64_t before[kWarps];
    unsigned long long settled;
    unsigned long long ticket;
};

template <class Test>
class Tile {
  public:
    using Memory = TileMemory<Test>;

    __device__ Tile(const Test& test, const Batch& batch, Memory& memory)
        : test_(test),
          batch_(batch),
          memory_(memory),
          lane_(threadIdx.x % kWarp),
          warp_(threadIdx.x / kWarp),
          own_(threadIdx.x % kTile),
          slice_(threadIdx.x / kTile) {
        // Who comes first gets the earlier tile: a tile waits only for such as have begun.
        if (threadIdx.x == 0) memory_.ticket = atomicAdd(batch_.ticket, 1ull);
        __syncthreads();
        image_ = static_cast<int64_t>(memory_.ticket) % batch_.num_images;
        tile_ = static_cast<int64_t>(memory_.ticket) / batch_.num_images;
        first_ = image_ * batch_.num_boxes;
    }

    __device__ void run() {
        const int64_t place = tile_ * kTile + own_, last_chunk = tile_ / kSlices;
        mine_ = glance(place);
        if (slice_ == 0) memory_.own[own_] = mine_;
        gone_ = place >= batch_.num_boxes || batch_.order[first_ + place] < 0;
        typename Test::Glance next = glance(threadIdx.x);
        unsigned long long hits = 0;
        for (int64_t chunk = 0; chunk <= last_chunk; ++chunk) {
            memory_.better[chunk & 1][threadIdx.x] = next;
            __syncthreads();
            if (chunk >= 2 && needless((chunk - 1) & 1)) return;
            if (chunk < last_chunk) next = glance((chunk + 1) * kThreads + threadIdx.x);
            const unsigned long long found = __all_sync(kAllLanes, gone_) ? 0 : look_at(chunk);
            if (chunk > 0) hear_of(chunk - 1, hits, chunk & 1);
            hits = found;
        }
        memory_.hits[threadIdx.x] = hits;  // of the own tile's slice: what its boxes do to each other
        hear_of(last_chunk, hits, 2);
        __syncthreads();
        if (warp_ == 0) settle();
        const int64_t before = num_before();
        if (before < batch_.max_keep && warp_ == 0) write(before);
        if (tile_ == batch_.tiles - 1) fill_up(before);
    }

  private:
    __device__ typename Test::Glance glance(int64_t place) const {
        return place < batch_.num_boxes ? test_.load(first_ + place) : Test::blank();
    }

    // Whether nothing is left to be found out, from what was said by all; then the tile is done.
    __device__ bool needless(int said) {
        unsigned low = 0, high = 0;
        int64_t kept = 0;
        for (int s = 0; s < kSlices; ++s) {
            low |= memory_.gone[said][2 * s], high |= memory_.gone[said][2 * s + 1];
            kept += memory_.kept[said][s];
        }
        gone_ = gone_ || ((warp_ % 2 ? high : low) >> lane_ & 1);
        const bool last = tile_ == batch_.tiles - 1, full = kept >= batch_.max_keep;
        if (!full && (last || (low & high) != kAllLanes)) return false;
        if (warp_ == 0) publish(0);
        if (last && threadIdx.x == 0) batch_.count[image_] = batch_.max_keep;
        return true;
    }

    // Which boxes of the slice's tile suppress this thread's box.
    __device__ unsigned long long look_at(int64_t chunk) {
        const int64_t tile = chunk * kSlices + slice_;
        if (tile > tile_) return 0;
        const typename Test::Glance* better = memory_.better[chunk & 1] + slice_ * kTile;
        unsigned long long candidates = 0;
#pragma unroll 1
        for (int half = 0; half < kTile; half += kWarp) {
            unsigned bits = 0;
#pragma unroll
            for (int i = 0; i < kWarp; ++i)
                if (test_.near(better[half + i], mine_)) bits |= 1u << i;
            candidates |= static_cast<unsigned long long>(bits) << half;
        }
        if (tile == tile_) candidates &= (1ull << own_) - 1;
        if (gone_) candidates = 0;
        if (!__any_sync(kAllLanes, candidates != 0)) return 0;
        return suppressing(candidates, better, first_ + tile * kTile);
    }

    // Of the candidates of this thread's box, those that do suppress it; each is looked into by some lane of the warp.
    __device__ unsigned long long suppressing(unsigned long long candidates, const typename Test::Glance* better,
                                              int64_t place_of_better) {
        memory_.hits[threadIdx.x] = 0;
        __syncwarp();
        const int half = warp_ % 2 * kWarp;
        const int64_t place_of_own = first_ + tile_ * kTile + half;
        const auto look_into = [&](int item) {
            const int i = item % kTile, owner = item / kTile;
            if (test_.suppresses(better[i], memory_.own[half + owner], place_of_better + i, place_of_own + owner))
                atomicOr(&memory_.hits[warp_ * kWarp + owner], 1ull << i);
        };
        WarpQueue queue(memory_.queue[warp_]);
        while (__any_sync(kAllLanes, candidates != 0)) {
            const bool gives = candidates != 0;
            queue.push(gives, lane_ * kTile + (gives ? __ffsll(static_cast<long long>(candidates)) - 1 : 0), look_into);
            candidates &= candidates - 1;
        }
        queue.finish(look_into);
        return memory_.hits[threadIdx.x];
    }

    // Waits until the slice's tile of a chunk is settled if one of its boxes, once kept, suppresses one here, and tells
    // the block what that means for this tile.
    __device__ void hear_of(int64_t chunk, unsigned long long hits, int saying) {
        const int64_t tile = chunk * kSlices + slice_;
        if (tile < tile_) {
            const unsigned long long kept = word_of(tile, __any_sync(kAllLanes, hits != 0));
            kept_ += __popcll(kept);
            gone_ = gone_ || (hits & kept) != 0;
        }
        const unsigned gone = __ballot_sync(kAllLanes, gone_);
        if (lane_ == 0) memory_.gone[saying][warp_] = gone;
        if (lane_ == 0 && warp_ % 2 == 0) memory_.kept[saying][slice_] = kept_;
    }

    // Which boxes of a tile are kept; if the tile is not settled yet, none are, or one waits. The word carries all that
    // is told, so no other memory has to be in order.
    __device__ unsigned long long word_of(int64_t tile, bool waits) const {
        for (;;) {
            const uint64_t value = half_word(tile, lane_ % 2);
            if (__all_sync(kAllLanes, value >> 32 != 0)) {
                const auto bits = static_cast<unsigned>(value);
                const unsigned low = __shfl_sync(kAllLanes, bits, 0), high = __shfl_sync(kAllLanes, bits, 1);
                return low | static_cast<unsigned long long>(high) << 32;
            }
            if (!waits) return 0;
            if (tile_ - tile > 2 * kSlices) __nanosleep(200);  // whose turn is far off leaves the way to the others
        }
    }

    __device__ uint64_t half_word(int64_t tile, int half) const {
        cuda::atomic_ref<uint64_t, cuda::thread_scope_device> value(word(tile)[half]);
        return value.load(cuda::memory_order_relaxed);
    }

    __device__ uint64_t* word(int64_t tile) const { return batch_.words + 2 * (image_ * batch_.tiles + tile); }

    __device__ void publish(unsigned long long kept) const {
        if (lane_ >= 2) return;
        cuda::atomic_ref<uint64_t, cuda::thread_scope_device> half(word(tile_)[lane_]);
        half.store(uint64_t{1} << 32 | static_cast<unsigned>(kept >> (32 * lane_)), cuda::memory_order_relaxed);
    }

    // By one warp: decides the tile and publishes it.
    __device__ void settle() const {
        unsigned long long gone = 0;
        for (int s = 0; s < kSlices; ++s)
            gone |= memory_.gone[2][2 * s] | static_cast<unsigned long long>(memory_.gone[2][2 * s + 1]) << 32;
        const unsigned long long kept = greedy(memory_.hits + tile_ % kSlices * kTile, ~gone);
        publish(kept);
        if (lane_ == 0) memory_.settled = kept;
    }

    // By the block: how many boxes the earlier tiles keep, all of which it waits for.
    __device__ int64_t num_before() const {
        int64_t kept = 0;
        for (int64_t i = threadIdx.x; i < 2 * tile_; i += kThreads) {
            uint64_t value;
            while (value = half_word(i / 2, static_cast<int>(i % 2)), value >> 32 == 0) __nanosleep(100);
            kept += __popc(static_cast<unsigned>(value));
        }
        for (int step = kWarp / 2; step > 0; step /= 2) kept += __shfl_down_sync(kAllLanes, kept, step);
        if (lane_ == 0) memory_.before[warp_] = kept;
        __syncthreads();
        kept = 0;
        for (int w = 0; w < kWarps; ++w) kept += memory_.before[w];
        return kept;
    }

    // By one warp: the tile's kept boxes to their places.
    __device__ void write(int64_t before) const {
        const unsigned long long kept = memory_.settled;
        for (int box = lane_; box < kTile; box += kWarp) {
            const int64_t rank = before + __popcll(kept & ((1ull << box) - 1));
            if ((kept >> box & 1) && rank < batch_.max_keep)
                batch_.keep[image_ * batch_.max_keep + rank] = batch_.order[first_ + tile_ * kTile + box];
        }
    }

    // Which of the open boxes are kept. In each round a box goes that a kept one suppresses, and one is kept that no
    // box still open could suppress; the first open box is always one of these.
    __device__ unsigned long long greedy(const unsigned long long* hits, unsigned long long open) const {
        const unsigned long long low = hits[lane_], high = hits[lane_ + kWarp];
        unsigned long long kept = 0;
        while (open) {
            const bool low_open = open >> lane_ & 1, high_open = open >> (lane_ + kWarp) & 1;
            const unsigned low_gone = __ballot_sync(kAllLanes, low_open && (low & kept));
            const unsigned high_gone = __ballot_sync(kAllLanes, high_open && (high & kept));
            const unsigned low_kept = __ballot_sync(kAllLanes, low_open && !(low & (kept | open)));
            const unsigned high_kept = __ballot_sync(kAllLanes, high_open && !(high & (kept | open)));
            kept |= low_kept | static_cast<unsigned long long>(high_kept) << 32;
            open &= ~(kept | low_gone | static_cast<unsigned long long>(high_gone) << 32);
        }
        return kept;
    }

    // By the block of the image's last tile: how many boxes are kept, and zeros behind them.
    __device__ void fill_up(int64_t before) const {
        const int64_t all = before + __popcll(memory_.settled);
        const int64_t total = all < batch_.max_keep ? all : batch_.max_keep;
        if (threadIdx.x == 0) batch_.count[image_] = total;
        for (int64_t k = total + threadIdx.x; k < batch_.max_keep; k += kThreads)
            batch_.keep[image_ * batch_.max_keep + k] = 0;
    }

    const Test& test_;
    const Batch& batch_;
    Memory& memory_;
    const int lane_, warp_, own_, slice_;
    int64_t image_, tile_, first_;
    typename Test::Glance mine_;
    bool gone_ = false;
    int kept_ = 0;  // of the tiles that this slice has heard of when they were settled
};

}  // namespace detcore::nms
