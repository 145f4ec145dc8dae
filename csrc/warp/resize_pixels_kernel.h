// Resize on the GPU where a tile's raw rows or columns are too many for shared memory, or the vertical pass comes
// first: each thread makes both passes for one pixel.
#pragma once

#include <cstdint>

#include "common/cuda.h"
#include "warp/batch.h"
#include "warp/op.h"
#include "warp/resize_kernel.h"

namespace detcore::warp {

constexpr int kPixelTileSide = 32, kPixelTileLines = 8;

// Along one axis: weights, and bytes from one raw pixel to the next.
struct Pass {
    const int16_t* weights;
    int taps;
    int64_t step;
};

inline __device__ int rounded(int sum) {
    return std::min(std::max((sum + kOne / 2) >> kBits, 0), 255);
}

// The first pass of each of the raw pixels that the second averages.
inline __device__ int two_passes(const uint8_t* from, const Pass& first, const Pass& second) {
    int sum = 0;
    for (int i = 0; i < second.taps; ++i, from += second.step) {
        if (second.weights[i] == 0) continue;  // beyond the last, there may be no pixel
        int own = 0;
        const uint8_t* at = from;
        for (int k = 0; k < first.taps; ++k, at += first.step)
            if (first.weights[k] != 0) own += first.weights[k] * *at;
        sum += second.weights[i] * rounded(own);
    }
    return rounded(sum);
}

template <class T>
__global__ void __launch_bounds__(kPixelTileSide* kPixelTileLines)
    resize_pixels(const __grid_constant__ Group<ResizeImage> group, const __grid_constant__ Output<T> out,
                  const int32_t* tables) {
    extern __shared__ __align__(16) uint8_t shared[];
    const ResizeImage& image = group.images[blockIdx.z];
    const Tile tile{int64_t{blockIdx.y} * kPixelTileSide, int64_t{blockIdx.x} * kPixelTileLines, kPixelTileSide};
    const int64_t x = tile.column(threadIdx.x), y = tile.line(threadIdx.x);
    float values[3] = {0, 0, 0};
    if (x >= image.x.begin && x < image.x.end && y >= image.y.begin && y < image.y.end) {
        const int32_t* column = image.columns.entry(tables, image.x, x);
        const int32_t* row = image.rows.entry(tables, image.y, y);
        const int64_t row_bytes = 3 * image.source.raw.width;
        const Pass across{reinterpret_cast<const int16_t*>(column + 1), image.columns.taps, 3};
        const Pass down{reinterpret_cast<const int16_t*>(row + 1), image.rows.taps, row_bytes};
        const uint8_t* from = image.source.pixels + row[0] * row_bytes + int64_t{3} * column[0];
        for (int c = 0; c < 3; ++c)
            values[c] = static_cast<float>(image.rows_first ? two_passes(from + c, down, across)
                                                            : two_passes(from + c, across, down));
        finish(image.source, out, 1.0f, values);
    }
    const int warp = threadIdx.x / kWarp;
    T* run = reinterpret_cast<T*>(shared) + 3 * kWarp * warp;
    write_pixels(out, image.source.row, tile, warp * kWarp, values, run);
}

}  // namespace detcore::warp
