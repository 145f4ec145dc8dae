// How an image is cut into tiles on the GPU; on the host, ahead of a launch.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "warp/op.h"
#include "warp/resize_kernel.h"
#include "warp/samples.h"
#include "warp/supersample_kernel.h"

namespace detcore::warp {

// What a block has without asking for more, a half for lines of the first pass and a half for raw rows.
constexpr int64_t kLineBuffer = 24 * 1024, kStageBuffer = 24 * 1024;

inline int64_t padded_to_16(int64_t bytes) {
    return (bytes + 15) / 16 * 16;
}

// Raw pixels that `pixels` neighbours of the output average together, at most.
inline double most_raw(const Axis& axis, const Table& table, int pixels) {
    return std::ceil((pixels - 1) / std::abs(axis.scale)) + 1 + 2.0 * table.pairs;
}

// at: where the image's tables begin; moved to their end.
inline ResizeImage resize_image(const Source& source, const Plan& plan, int64_t* at) {
    ResizeImage image{};
    image.source = source;
    image.tile_rows = kMostTileRows;
    if (plan.kind != Plan::Kind::kResize) return image;  // nothing is drawn: zeros
    image.x = plan.x;
    image.y = plan.y;
    for (const auto& [axis, table] : {std::pair{&image.x, &image.columns}, std::pair{&image.y, &image.rows}}) {
        const int taps = most_taps(*axis);
        *table = {*at, taps, (taps + 1) / 2};
        *at += (axis->end - axis->begin) * (1 + table->pairs);
    }
    image.rows_first = rows_first(plan.x, plan.y);
    // A row begins within a word, and three words are read for two pixels.
    const double words = std::ceil((3 * most_raw(image.x, image.columns, kTileColumns) + 3) / 4) + 3;
    const auto lines_bytes = [&](int rows) {
        return (most_raw(image.y, image.rows, rows)) * kLineBytes + 2 * kLineMargin;
    };
    while (image.tile_rows > 0 && !(lines_bytes(image.tile_rows) <= kLineBuffer)) image.tile_rows /= 2;
    if (image.rows_first || !(4 * words <= kStageBuffer)) image.tile_rows = 0;
    if (image.tile_rows == 0) return image;
    image.line_buffer = static_cast<int>(padded_to_16(static_cast<int64_t>(lines_bytes(image.tile_rows))));
    image.stage_words = static_cast<int>(words);
    image.stage_rows = static_cast<int>(
        std::min(most_raw(image.y, image.rows, image.tile_rows), std::floor(kStageBuffer / (4 * words))));
    return image;
}

inline int64_t tile_memory(const ResizeImage& image) {
    return image.line_buffer + int64_t{4} * image.stage_words * image.stage_rows;
}

// The number of raw pixels of a tile's patch, at most.
inline double most_patch_pixels(const double inverse[6], Place reach, int side) {
    const double width = std::ceil((side - 1) * (std::abs(inverse[0]) + std::abs(inverse[1])) + 2 * reach.u) + 4;
    const double height = std::ceil((side - 1) * (std::abs(inverse[3]) + std::abs(inverse[4])) + 2 * reach.v) + 4;
    return width * height;
}

inline SampledImage sampled_image(const Source& source, const Plan& plan) {
    SampledImage image{};
    image.source = source;
    image.content = {plan.y.end, plan.x.end};
    std::copy_n(plan.inverse, 6, image.inverse);
    image.count = supersampling(plan.inverse);
    image.reach = reach_of(plan.inverse, image.count);
    for (const int side : {32, 16}) {
        image.side = side;
        image.patches = most_patch_pixels(plan.inverse, image.reach, side) <= kMostPatchPixels;
        if (image.patches) break;
    }
    if (!image.patches) return image;
    const auto step = [&](double distance) {
        return static_cast<int>(std::round(distance / image.count * (1 << kPlaceBits)));
    };
    image.right_u = step(plan.inverse[0]);
    image.right_v = step(plan.inverse[3]);
    image.down_u = step(plan.inverse[1]);
    image.down_v = step(plan.inverse[4]);
    return image;
}

template <class T>
int64_t sample_memory(const SampledImage& image) {
    const double quads = image.patches ? most_patch_pixels(image.inverse, image.reach, image.side) : 0;
    return kSampleMemory<T> + static_cast<int64_t>(quads) * static_cast<int64_t>(sizeof(Quad));
}

}  // namespace detcore::warp
