// Rotation, shear and what else is no plain resize, on the GPU: each pixel takes its samples from a patch of the raw
// image in shared memory.
#pragma once

#include <cstdint>

#include "common/cuda.h"
#include "warp/batch.h"
#include "warp/op.h"
#include "warp/samples.h"

namespace detcore::warp {

constexpr int kSampleThreads = 256;
constexpr int kMostSamples = kMaxSupersampling * kMaxSupersampling;
// Raw pixels of a patch at most: it takes 12 bytes for each, and a block has 48 KB.
constexpr int kMostPatchPixels = 3000;
// Places in a patch are in units of 2^-16 raw pixels; weights know 8 bits of them.
constexpr int kPlaceBits = 16;

struct SampledImage {
    Source source;
    Size content;
    double inverse[6];
    Place reach;
    int count;     // x count samples a pixel
    int side;      // of a tile, 16 or 32
    bool patches;  // whether a tile's patch fits shared memory
    // From sample to sample, to the right and down, in the units of places.
    int right_u, right_v, down_u, down_v;
};

// The four raw pixels that samples right of and below a pixel's centre interpolate, a word for each channel: 00, 01,
// 10, 11, the first digit being the row.
struct Quad {
    uint32_t words[3];
};

struct Patch {
    int64_t left, top;
    int width, height;
};

// The patch that the samples of a tile's pixels lie in, none if it lies outside of the image.
inline __device__ Patch patch_of(const SampledImage& image, const Tile& tile) {
    const int64_t right = std::min(tile.x + tile.side, image.content.width) - 1;
    const int64_t bottom = std::min(tile.y + tile.side, image.content.height) - 1;
    if (right < tile.x || bottom < tile.y) return {0, 0, 0, 0};
    const Place corners[4] = {centre_of(image.inverse, tile.y, tile.x), centre_of(image.inverse, tile.y, right),
                              centre_of(image.inverse, bottom, tile.x), centre_of(image.inverse, bottom, right)};
    Place low = corners[0], high = corners[0];
    for (int i = 1; i < 4; ++i) {
        low = {std::min(low.u, corners[i].u), std::min(low.v, corners[i].v)};
        high = {std::max(high.u, corners[i].u), std::max(high.v, corners[i].v)};
    }
    // A pixel more on each side: samples' places are rounded.
    const auto first = [](double place, double reach, int64_t limit) {
        return static_cast<int64_t>(std::min(std::max(0.0, std::floor(place - reach - 0.5) - 1), double(limit)));
    };
    const auto last = [](double place, double reach, int64_t limit) {
        return static_cast<int64_t>(std::min(std::max(-1.0, std::floor(place + reach - 0.5) + 1), double(limit) - 1));
    };
    const Size raw = image.source.raw;
    const int64_t left = first(low.u, image.reach.u, raw.width), top = first(low.v, image.reach.v, raw.height);
    const int64_t width = last(high.u, image.reach.u, raw.width) + 1 - left;
    const int64_t height = last(high.v, image.reach.v, raw.height) + 1 - top;
    if (width <= 0 || height <= 0) return {0, 0, 0, 0};
    return {left, top, static_cast<int>(width), static_cast<int>(height)};
}

inline __device__ void load_patch(const Source& source, const Patch& patch, Quad* quads) {
    const int64_t width = source.raw.width, height = source.raw.height;
    for (int row = threadIdx.x / kWarp; row < patch.height; row += kSampleThreads / kWarp) {
        const int64_t y = patch.top + row, below = std::min(y + 1, height - 1);
        for (int column = threadIdx.x % kWarp; column < patch.width; column += kWarp) {
            const int64_t x = patch.left + column, right = std::min(x + 1, width - 1);
            const uint8_t *upper = source.pixels + 3 * y * width, *lower = source.pixels + 3 * below * width;
            Quad quad;
            for (int c = 0; c < 3; ++c)
                quad.words[c] = upper[3 * x + c] | upper[3 * right + c] << 8 | lower[3 * x + c] << 16 |
                                static_cast<uint32_t>(lower[3 * right + c]) << 24;
            quads[row * patch.width + column] = quad;
        }
    }
}

// The place within a raw pixel, 0 to 255, of one along an axis.
inline __device__ uint32_t within_pixel(int place) {
    constexpr uint32_t kUnit = 1 << kPlaceBits;
    return ((place & (kUnit - 1)) * 255 + kUnit / 2) >> kPlaceBits;
}

// The rounded mean of samples all of which lie in the patch, from the first on, which lies at (u, v).
template <int kCount>
__device__ void mean_in_patch(const SampledImage& image, const Patch& patch, const Quad* quads, int u, int v,
                              float (&levels)[3]) {
    const int count = kCount ? kCount : image.count;
    // 256 samples of 255 x 255 x 255 fit.
    uint32_t sums[3] = {0, 0, 0};
#pragma unroll
    for (int i = 0; i < count; ++i, u += image.down_u, v += image.down_v) {
        int across = u, down = v;
#pragma unroll
        for (int k = 0; k < count; ++k, across += image.right_u, down += image.right_v) {
            const Quad& quad = quads[(down >> kPlaceBits) * patch.width + (across >> kPlaceBits)];
            // Weights of 16 bits, two to a word: of the left pixel, then of the right one; they sum to 255 x 255.
            const uint32_t fu = within_pixel(across), fv = within_pixel(down), both = (255 - fu) | fu << 16;
            const uint32_t upper = both * (255 - fv), lower = both * fv;
#pragma unroll
            for (int c = 0; c < 3; ++c)
                sums[c] = __dp2a_hi(lower, quad.words[c], __dp2a_lo(upper, quad.words[c], sums[c]));
        }
    }
    const float share = 1.0f / (255.0f * 255.0f * static_cast<float>(count * count));
    for (int c = 0; c < 3; ++c) levels[c] = floorf(static_cast<float>(sums[c]) * share + 0.5f);
}

// Grey levels of a pixel, and the share of its samples in the raw image.
inline __device__ float sample_pixel(const SampledImage& image, const Patch& patch, const Quad* quads,
                                     const Place* offsets, int64_t line, int64_t pixel, float (&levels)[3]) {
    const Size raw = image.source.raw;
    const Place centre = centre_of(image.inverse, line, pixel), reach = image.reach;
    if (!touches(centre, reach, raw)) return 0;
    // With a pixel to spare no sample's place is rounded out of the patch.
    const bool inside = centre.u - reach.u >= 1 && centre.u + reach.u <= static_cast<double>(raw.width - 1) &&
                        centre.v - reach.v >= 1 && centre.v + reach.v <= static_cast<double>(raw.height - 1);
    if (!image.patches || !inside)
        return mean_of_samples(image.source.pixels, raw, centre, offsets, image.count * image.count, levels);
    constexpr double kUnit = 1 << kPlaceBits;
    const auto u = static_cast<int>((centre.u + offsets[0].u - 0.5 - static_cast<double>(patch.left)) * kUnit);
    const auto v = static_cast<int>((centre.v + offsets[0].v - 0.5 - static_cast<double>(patch.top)) * kUnit);
    if (image.count == kMinSupersampling) {
        mean_in_patch<kMinSupersampling>(image, patch, quads, u, v, levels);
    } else {
        mean_in_patch<0>(image, patch, quads, u, v, levels);
    }
    return 1;
}

template <class T>
__global__ void __launch_bounds__(kSampleThreads)
    supersample(const __grid_constant__ Group<SampledImage> group, const __grid_constant__ Output<T> out) {
    extern __shared__ __align__(16) uint8_t shared[];
    const SampledImage& image = group.images[blockIdx.z];
    const Tile tile{int64_t{blockIdx.y} * image.side, int64_t{blockIdx.x} * image.side, image.side};
    if (tile.x >= out.width || tile.y >= out.height) return;
    T* runs = reinterpret_cast<T*>(shared);
    auto* offsets = reinterpret_cast<Place*>(runs + 3 * kSampleThreads);
    auto* quads = reinterpret_cast<Quad*>(offsets + kMostSamples);
    const Patch patch = patch_of(image, tile);
    for (int i = threadIdx.x; i < image.count * image.count; i += kSampleThreads)
        offsets[i] = offset_of(image.inverse, image.count, i);
    if (image.patches) load_patch(image.source, patch, quads);
    __syncthreads();
    const int warp = threadIdx.x / kWarp;
    for (int first = warp * kWarp; first < tile.side * tile.side; first += kSampleThreads) {
        const int i = first + threadIdx.x % kWarp;
        const int64_t column = tile.column(i), line = tile.line(i);
        float values[3] = {0, 0, 0};
        if (column < image.content.width && line < image.content.height) {
            const float coverage = sample_pixel(image, patch, quads, offsets, line, column, values);
            if (coverage > 0) finish(image.source, out, coverage, values);
        }
        write_pixels(out, image.source.row, tile, first, values, runs + 3 * kWarp * warp);
    }
}

template <class T>
constexpr int kSampleMemory = 3 * kSampleThreads * sizeof(T) + kMostSamples * sizeof(Place);

}  // namespace detcore::warp
