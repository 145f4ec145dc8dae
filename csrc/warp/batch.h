// What the CUDA kernels are told of a batch, and the last steps that they share: colours, normalisation, writing.
#pragma once

#include <cstdint>

#include "common/cuda.h"
#include "warp/op.h"

namespace detcore::warp {

// Images are told to a kernel by value: nothing is copied ahead of it, nothing has to outlive the call.
constexpr int kImagesPerLaunch = 32;

struct Source {
    const uint8_t* pixels;  // (height, width, 3)
    Size raw;
    int64_t row;  // of the batch
    float colour[12];
    bool recolours;
};

// The batch, (.., height, width, 3).
template <class T>
struct Output {
    T* numbers;
    int64_t height, width;
    float scale[3], shift[3];
    bool packed;  // whether groups of numbers can be written at once

    __device__ T* line(int64_t row, int64_t y) const { return numbers + (row * height + y) * 3 * width; }
};

template <class Image>
struct Group {
    Image images[kImagesPerLaunch];
};

// values: `count` numbers, a multiple of a pack.
template <int count, class T>
__device__ void store_packs(const float (&values)[count], T* to) {
    constexpr int kPack = kPackOf16Bytes<T>;
    for (int i = 0; i < count; i += kPack) {
        Pack<T, kPack> pack;
        for (int k = 0; k < kPack; ++k) pack.values[k] = narrow<T>(values[i + k]);
        pack.store(to + i);
    }
}

// A pixel's grey levels, in place, to what the network sees.
template <class T>
__device__ void finish(const Source& source, const Output<T>& out, float coverage, float (&levels)[3]) {
    const float raw[3] = {levels[0], levels[1], levels[2]};
    for (int c = 0; c < 3; ++c) {
        float value = raw[c];
        if (source.recolours) {
            const float* mix = source.colour + 4 * c;
            value = mix[3];
            for (int from = 0; from < 3; ++from) value += mix[from] * raw[from];
            value = value > 0 ? value : 0;
            value = value < 255 ? value : 255;
        }
        levels[c] = (value * out.scale[c] + out.shift[c]) * coverage;
    }
}

// Where a thread's pixels lie in a block's tile of side x side pixels, side being 16 or 32: each warp has runs of
// `side` neighbours.
struct Tile {
    int64_t x, y;
    int side;

    __device__ int64_t column(int i) const { return x + i % side; }
    __device__ int64_t line(int i) const { return y + i / side; }
};

// Pixels first .. first + 31 of a tile, one by each lane, are written. run: memory of this warp, 96 numbers.
template <class T>
__device__ void write_pixels(const Output<T>& out, int64_t row, const Tile& tile, int first, const float (&values)[3],
                             T* run) {
    const int lane = threadIdx.x % kWarp;
    if (!out.packed) {
        const int64_t column = tile.column(first + lane), line = tile.line(first + lane);
        if (column < out.width && line < out.height)
            for (int c = 0; c < 3; ++c) out.line(row, line)[3 * column + c] = narrow<T>(values[c]);
        return;
    }
    constexpr int kPack = kPackOf16Bytes<T>;
    for (int c = 0; c < 3; ++c) run[3 * lane + c] = narrow<T>(values[c]);
    __syncwarp();
    for (int at = lane * kPack; at < 3 * kWarp; at += kWarp * kPack) {
        const int64_t number = 3 * tile.x + at % (3 * tile.side), line = tile.line(first + at / 3);
        if (number < 3 * out.width && line < out.height)
            Pack<T, kPack>::load(run + at).store(out.line(row, line) + number);
    }
    __syncwarp();
}

}  // namespace detcore::warp
