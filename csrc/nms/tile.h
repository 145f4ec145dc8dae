// Greedy suppression on a GPU, one kernel for a whole batch: a wave over tiles of 32 boxes.
//
// A block has one tile. With every earlier tile of its image it first finds which of that tile's boxes suppress its
// own, whether they are kept or not, and waits for the word that says which are only if there are any; so that from one
// tile to the next there is but a look at that word, the settling of the tile itself and the publication of its own
// word, and tiles that have nothing to do with each other settle at once.
//
// `Test` says what suppresses, in three steps, each asked only where the one before says yes: test.near(better, worse)
// of two Glances, which are what the quickest look at a box needs and should be small, since reading them is what takes
// the time; then test.likely(better, worse, place of better, place of worse) and test.suppresses of the same.
// test.load(place) reads a Glance, places being those in the sorted order of the whole batch; Test::blank() is near to
// nothing.
#pragma once

#include <cuda/atomic>

#include "nms/warp_queue.h"

namespace detcore::nms {

// A slice is a warp, which looks at one earlier tile at a time; the tiles of all slices are a chunk.
constexpr int kTile = kWarp, kSlices = 16, kThreads = kTile * kSlices;

// What is known of a batch. Places: images one after the other, the boxes of each in their order.
struct Batch {
    int32_t* order;   // by place: the box's index in its image, -1 if it is invalid
    uint64_t* words;  // by tile: 2^32 once it is settled, and below it which boxes are kept
    unsigned long long* ticket;
    int64_t* keep;
    int64_t* count;
    int64_t num_images, num_boxes, tiles, max_keep;
};

// What threads tell each other while they look at a chunk is kept apart by the chunk's parity, with a third place for
// what they say at the end.
template <class Test>
struct TileMemory {
    typename Test::Glance better[2][kThreads], own[kTile];
    unsigned hits[kThreads];  // by slice and own box: which boxes of the slice's tile suppress it
    uint16_t queue[kSlices][WarpQueue::kCapacity];
    unsigned gone[3][kSlices];
    int kept[3][kSlices];  // so many at least
    int64_t before[kSlices];
    unsigned settled;
    unsigned long long ticket;
};

template <class Test>
class Tile {
  public:
    using Memory = TileMemory<Test>;

    __device__ Tile(const Test& test, const Batch& batch, Memory& memory)
        : test_(test), batch_(batch), memory_(memory), lane_(threadIdx.x % kTile), slice_(threadIdx.x / kTile) {
        // Who comes first gets the earlier tile: a tile waits only for such as have begun.
        if (threadIdx.x == 0) memory_.ticket = atomicAdd(batch_.ticket, 1ull);
        __syncthreads();
        image_ = static_cast<int64_t>(memory_.ticket) % batch_.num_images;
        tile_ = static_cast<int64_t>(memory_.ticket) / batch_.num_images;
        first_ = image_ * batch_.num_boxes;
    }

    __device__ void run() {
        const int64_t place = tile_ * kTile + lane_, last_chunk = tile_ / kSlices;
        mine_ = glance(place);
        if (slice_ == 0) memory_.own[lane_] = mine_;
        gone_ = place >= batch_.num_boxes || batch_.order[first_ + place] < 0;
        typename Test::Glance next = glance(threadIdx.x);
        unsigned hits = 0;
        for (int64_t chunk = 0; chunk <= last_chunk; ++chunk) {
            memory_.better[chunk & 1][threadIdx.x] = next;
            __syncthreads();
            if (chunk >= 2 && needless((chunk - 1) & 1)) return;
            if (chunk < last_chunk) next = glance((chunk + 1) * kThreads + threadIdx.x);
            // Asked for before there is work to do meanwhile.
            const uint64_t word = chunk > 0 ? word_of((chunk - 1) * kSlices + slice_) : 0;
            const unsigned found = __all_sync(kAllLanes, gone_) ? 0 : look_at(chunk);
            if (chunk > 0) hear_of(chunk - 1, word, hits, chunk & 1);
            hits = found;
        }
        memory_.hits[threadIdx.x] = hits;  // of the own tile's slice: what its boxes do to each other
        const int64_t last = last_chunk * kSlices + slice_;
        hear_of(last_chunk, last < tile_ ? word_of(last) : 0, hits, 2);
        __syncthreads();
        if (slice_ == 0) settle();
        const int64_t before = num_before();
        if (before < batch_.max_keep && slice_ == 0) write(before);
        if (tile_ == batch_.tiles - 1) fill_up(before);
    }

  private:
    __device__ typename Test::Glance glance(int64_t place) const {
        return place < batch_.num_boxes ? test_.load(first_ + place) : Test::blank();
    }

    // Whether nothing is left to be found out, from what was said by all; then the tile is done.
    __device__ bool needless(int said) {
        unsigned gone = 0;
        int64_t kept = 0;
        for (int s = 0; s < kSlices; ++s) gone |= memory_.gone[said][s], kept += memory_.kept[said][s];
        gone_ = gone >> lane_ & 1;
        const bool last = tile_ == batch_.tiles - 1, full = kept >= batch_.max_keep;
        if (!full && (last || gone != kAllLanes)) return false;
        if (threadIdx.x == 0) publish(0);
        if (last && threadIdx.x == 0) batch_.count[image_] = batch_.max_keep;
        return true;
    }

    // Which boxes of the slice's tile suppress this lane's box.
    __device__ unsigned look_at(int64_t chunk) {
        const int64_t tile = chunk * kSlices + slice_;
        if (tile > tile_) return 0;
        const typename Test::Glance* better = memory_.better[chunk & 1] + slice_ * kTile;
        unsigned near = 0;
#pragma unroll
        for (int i = 0; i < kTile; ++i)
            if (test_.near(better[i], mine_)) near |= 1u << i;
        if (tile == tile_) near &= (1u << lane_) - 1;
        if (gone_) near = 0;
        if (!__any_sync(kAllLanes, near != 0)) return 0;
        unsigned likely = 0;
        const int64_t place_of_better = first_ + tile * kTile, place_of_own = first_ + tile_ * kTile + lane_;
        for (; near; near &= near - 1) {
            const int i = __ffs(static_cast<int>(near)) - 1;
            if (test_.likely(better[i], mine_, place_of_better + i, place_of_own)) likely |= 1u << i;
        }
        return __any_sync(kAllLanes, likely != 0) ? suppressing(likely, better, place_of_better) : 0;
    }

    // Of the likely ones of this lane's box, those that do suppress it; each is looked into by some lane of the warp.
    __device__ unsigned suppressing(unsigned likely, const typename Test::Glance* better, int64_t place_of_better) {
        memory_.hits[threadIdx.x] = 0;
        __syncwarp();
        const int64_t place_of_own = first_ + tile_ * kTile;
        const auto look_into = [&](int item) {
            const int i = item % kTile, owner = item / kTile;
            if (test_.suppresses(better[i], memory_.own[owner], place_of_better + i, place_of_own + owner))
                atomicOr(&memory_.hits[slice_ * kTile + owner], 1u << i);
        };
        WarpQueue queue(memory_.queue[slice_]);
        while (__any_sync(kAllLanes, likely != 0)) {
            const bool gives = likely != 0;
            queue.push(gives, lane_ * kTile + (gives ? __ffs(static_cast<int>(likely)) - 1 : 0), look_into);
            likely &= likely - 1;
        }
        queue.finish(look_into);
        return memory_.hits[threadIdx.x];
    }

    // Waits until the slice's tile of a chunk is settled if one of its boxes, once kept, suppresses one here, and tells
    // the block what that means for this tile.
    __device__ void hear_of(int64_t chunk, uint64_t word, unsigned hits, int saying) {
        const int64_t tile = chunk * kSlices + slice_;
        if (tile < tile_) {
            if (!is_settled(word) && __any_sync(kAllLanes, hits != 0)) word = settled_word_of(tile);
            const auto kept = static_cast<unsigned>(word);
            kept_ += __popc(kept);
            gone_ = gone_ || (hits & kept) != 0;
        }
        const unsigned gone = __ballot_sync(kAllLanes, gone_);
        if (lane_ == 0) memory_.gone[saying][slice_] = gone, memory_.kept[saying][slice_] = kept_;
    }

    // The word carries all that is told, so no other memory has to be in order.
    __device__ uint64_t word_of(int64_t tile) const {
        cuda::atomic_ref<uint64_t, cuda::thread_scope_device> word(batch_.words[image_ * batch_.tiles + tile]);
        return word.load(cuda::memory_order_relaxed);
    }

    static __device__ bool is_settled(uint64_t word) { return word >> 32 != 0; }

    __device__ uint64_t settled_word_of(int64_t tile) const {
        for (;;) {
            const uint64_t word = word_of(tile);
            if (is_settled(word)) return word;
            if (tile_ - tile > 2 * kSlices) __nanosleep(200);  // whose turn is far off leaves the way to the others
        }
    }

    __device__ void publish(unsigned kept) const {
        cuda::atomic_ref<uint64_t, cuda::thread_scope_device> word(batch_.words[image_ * batch_.tiles + tile_]);
        word.store(uint64_t{1} << 32 | kept, cuda::memory_order_relaxed);
    }

    // By one warp: decides the tile and publishes it.
    __device__ void settle() const {
        unsigned gone = 0;
        for (int s = 0; s < kSlices; ++s) gone |= memory_.gone[2][s];
        const unsigned kept = greedy(memory_.hits[tile_ % kSlices * kTile + lane_], ~gone);
        if (lane_ == 0) publish(kept), memory_.settled = kept;
    }

    // Which of the open boxes are kept. In each round a box goes that a kept one suppresses, and one is kept that no
    // box still open could suppress; the first open box is always one of these.
    __device__ unsigned greedy(unsigned hits, unsigned open) const {
        unsigned kept = 0;
        while (open) {
            const bool is_open = open >> lane_ & 1;
            const unsigned goes = __ballot_sync(kAllLanes, is_open && (hits & kept));
            kept |= __ballot_sync(kAllLanes, is_open && !(hits & (kept | open)));
            open &= ~(kept | goes);
        }
        return kept;
    }

    // By the block: how many boxes the earlier tiles keep, all of which it waits for.
    __device__ int64_t num_before() const {
        int64_t kept = 0;
        for (int64_t tile = threadIdx.x; tile < tile_; tile += kThreads)
            kept += __popc(static_cast<unsigned>(settled_word_of(tile)));
        for (int step = kWarp / 2; step > 0; step /= 2) kept += __shfl_down_sync(kAllLanes, kept, step);
        if (lane_ == 0) memory_.before[slice_] = kept;
        __syncthreads();
        kept = 0;
        for (int s = 0; s < kSlices; ++s) kept += memory_.before[s];
        return kept;
    }

    // By one warp: the tile's kept boxes to their places.
    __device__ void write(int64_t before) const {
        const unsigned kept = memory_.settled;
        const int64_t rank = before + __popc(kept & ((1u << lane_) - 1));
        if ((kept >> lane_ & 1) && rank < batch_.max_keep)
            batch_.keep[image_ * batch_.max_keep + rank] = batch_.order[first_ + tile_ * kTile + lane_];
    }

    // By the block of the image's last tile: how many boxes are kept, and zeros behind them.
    __device__ void fill_up(int64_t before) const {
        const int64_t all = before + __popc(memory_.settled);
        const int64_t total = all < batch_.max_keep ? all : batch_.max_keep;
        if (threadIdx.x == 0) batch_.count[image_] = total;
        for (int64_t k = total + threadIdx.x; k < batch_.max_keep; k += kThreads)
            batch_.keep[image_ * batch_.max_keep + k] = 0;
    }

    const Test& test_;
    const Batch& batch_;
    Memory& memory_;
    const int lane_, slice_;
    int64_t image_, tile_, first_;
    typename Test::Glance mine_;
    bool gone_ = false;
    int kept_ = 0;  // of the tiles that this slice has heard of when they were settled
};

}  // namespace detcore::nms
