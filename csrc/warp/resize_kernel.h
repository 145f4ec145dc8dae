// Resize on the GPU, with the weights and the roundings of the CPU: the same grey levels.
#pragma once

#include <cstdint>

#include "common/cuda.h"
#include "warp/batch.h"
#include "warp/op.h"

namespace detcore::warp {

// A block makes a tile of the output: the first pass of the raw rows that it needs, as bytes in shared memory, then the
// second pass, in groups of numbers that are written at once.
constexpr int kTileColumns = 128, kMostTileRows = 32;
constexpr int kLineBytes = 3 * kTileColumns;
constexpr int kGroup = 8, kGroupsPerLine = kLineBytes / kGroup;
constexpr int kTileThreads = 384;  // whole lines of pixels in the first pass, and of groups in the second
// Groups read so many bytes before and after a line.
constexpr int kLineMargin = 16;

// An axis' filter is tabulated once: for each output pixel the first raw pixel, then the weights, two to a word.
struct Table {
    int64_t at;  // in words
    int taps;    // as many as weights can differ from 0
    int pairs;

    __device__ const int32_t* entry(const int32_t* tables, const Axis& axis, int64_t pixel) const {
        return tables + at + (pixel - axis.begin) * (1 + pairs);
    }
};

struct ResizeImage {
    Source source;
    Axis x, y;
    Table columns, rows;
    int tile_rows;    // lines of a tile; 0: a thread makes a pixel, whatever it takes
    int line_buffer;  // bytes that the lines of the first pass take in shared memory
    int stage_words;  // of a raw row, in shared memory
    int stage_rows;   // which are there at once
    bool rows_first;
};

__global__ void tabulate(const __grid_constant__ Group<ResizeImage> group, int32_t* tables) {
    const ResizeImage& image = group.images[blockIdx.y];
    const int64_t columns = image.x.end - image.x.begin, count = columns + image.y.end - image.y.begin;
    for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
        const Axis axis = i < columns ? image.x : image.y;
        const Table table = i < columns ? image.columns : image.rows;
        const int64_t pixel = axis.begin + (i < columns ? i : i - columns);
        auto* entry = const_cast<int32_t*>(table.entry(tables, axis, pixel));
        auto* weights = reinterpret_cast<int16_t*>(entry + 1);
        if (table.taps % 2) weights[table.taps] = 0;
        entry[0] = static_cast<int32_t>(weigh(axis, pixel, table.taps, weights).first);
    }
}

struct Range {
    int64_t begin, end;
};

// What pixels [pixels.begin, pixels.end) of an axis average, of which there are any.
inline __device__ Range raw_range(const int32_t* tables, const Table& table, const Axis& axis, Range pixels) {
    const int64_t one = *table.entry(tables, axis, pixels.begin), other = *table.entry(tables, axis, pixels.end - 1);
    return {std::min(one, other), std::min(std::max(one, other) + 2 * table.pairs, axis.raw)};
}

// Four bytes, of which those from `end` on must not be touched.
inline __device__ uint32_t load_word(const uint8_t* from, const uint8_t* end) {
    if (from + 4 <= end) return *reinterpret_cast<const uint32_t*>(from);
    uint32_t word = 0;
    for (int i = 0; from + i < end; ++i) word |= static_cast<uint32_t>(from[i]) << (8 * i);
    return word;
}

// One pixel of one raw row to one of the first pass. at: where in the row its first raw pixel begins, in bytes.
template <bool kOnePair>
__device__ void average_columns(const uint32_t* row, int at, const int32_t* weights, int pairs, uint8_t* to) {
    unsigned sums[3] = {kOne / 2, kOne / 2, kOne / 2};
#pragma unroll 1
    for (int pair = 0; pair < (kOnePair ? 1 : pairs); ++pair, at += 6) {
        const uint32_t *word = row + at / 4, middle = word[1];
        const int shift = at % 4 * 8;
        // r, g, b, r | g, b
        const uint32_t low = __funnelshift_r(word[0], middle, shift), high = __funnelshift_r(middle, word[2], shift);
        const uint32_t red_green = __byte_perm(low, high, 0x4130), blue = __byte_perm(low, high, 0x5252);
        const auto both = static_cast<unsigned>(weights[pair]);
        sums[0] = __dp2a_lo(both, red_green, sums[0]);
        sums[1] = __dp2a_hi(both, red_green, sums[1]);
        sums[2] = __dp2a_lo(both, blue, sums[2]);
    }
    for (int c = 0; c < 3; ++c) to[c] = static_cast<uint8_t>(sums[c] >> kBits);
}

// The first pass of the raw rows that a tile needs. x: of the tile; columns: those drawn.
inline __device__ void make_lines(const ResizeImage& image, const int32_t* tables, int64_t x, Range columns, Range rows,
                                  uint8_t* lines, uint32_t* stage) {
    const Range raw = raw_range(tables, image.columns, image.x, columns);
    const int64_t row_bytes = 3 * image.source.raw.width;
    const uint8_t* corner = image.source.pixels + rows.begin * row_bytes + 3 * raw.begin;
    const uint8_t* end = image.source.pixels + image.source.raw.height * row_bytes;
    const int bytes = static_cast<int>(3 * (raw.end - raw.begin)), count = static_cast<int>(rows.end - rows.begin);
    const int64_t pixel = x + threadIdx.x % kTileColumns;
    const bool drawn = pixel >= columns.begin && pixel < columns.end;
    const int32_t* entry = image.columns.entry(tables, image.x, drawn ? pixel : columns.begin);
    const int at = static_cast<int>(3 * (entry[0] - raw.begin)), pairs = image.columns.pairs;
    const int32_t weights = entry[1];
    // Words of the raw image stay words: rows begin in the middle of one.
    const auto odd = [&](int row) {
        return static_cast<int>((reinterpret_cast<uintptr_t>(corner) + static_cast<uint64_t>(row) * row_bytes) % 4);
    };
    for (int top = 0; top < count; top += image.stage_rows) {
        const int here = std::min(image.stage_rows, count - top);
        if (top) __syncthreads();
        for (int row = threadIdx.x / kWarp; row < here; row += kTileThreads / kWarp) {
            const uint8_t* from = corner + (top + row) * row_bytes - odd(top + row);
            const int words = (odd(top + row) + bytes + 3) / 4;
            for (int i = threadIdx.x % kWarp; i < words; i += kWarp)
                stage[row * image.stage_words + i] = load_word(from + 4 * i, end);
        }
        __syncthreads();
        for (int row = threadIdx.x / kTileColumns; drawn && row < here; row += kTileThreads / kTileColumns) {
            const uint32_t* words = stage + row * image.stage_words;
            uint8_t* to = lines + (top + row) * kLineBytes + threadIdx.x % kTileColumns * 3;
            if (pairs == 1) {
                average_columns<true>(words, at + odd(top + row), &weights, pairs, to);
            } else {
                average_columns<false>(words, at + odd(top + row), entry + 1, pairs, to);
            }
        }
    }
    __syncthreads();
}

// The weighted sums of lines, in units of 1 / kOne, of kWords words of bytes from `from` on.
template <bool kOnePair, int kWords>
__device__ void average_lines(const uint8_t* from, const int32_t* weights, int pairs, unsigned (&sums)[4 * kWords]) {
    for (unsigned& sum : sums) sum = kOne / 2;
#pragma unroll 1
    for (int pair = 0; pair < (kOnePair ? 1 : pairs); ++pair, from += 2 * kLineBytes) {
        const auto both = static_cast<unsigned>(weights[pair]);
#pragma unroll
        for (int i = 0; i < kWords; ++i) {
            const uint32_t upper = reinterpret_cast<const uint32_t*>(from)[i];
            const uint32_t lower = reinterpret_cast<const uint32_t*>(from + kLineBytes)[i];
            const uint32_t left = __byte_perm(upper, lower, 0x5140), right = __byte_perm(upper, lower, 0x7362);
            sums[4 * i] = __dp2a_lo(both, left, sums[4 * i]);
            sums[4 * i + 1] = __dp2a_hi(both, left, sums[4 * i + 1]);
            sums[4 * i + 2] = __dp2a_lo(both, right, sums[4 * i + 2]);
            sums[4 * i + 3] = __dp2a_hi(both, right, sums[4 * i + 3]);
        }
    }
}

// What becomes of the numbers of a group. Channels alternate with a period of 3, and a thread's groups all begin with
// the same one: coefficient i is that of number i, i + 3 and i + 6.
template <bool kRecolours>
struct GroupFinish {
    float scale[3], shift[3], added[3];
    float mix[5][3];  // from the number two places before to that two places on

    template <class T>
    __device__ GroupFinish(const Source& source, const Output<T>& out, int first) {
        for (int i = 0; i < 3; ++i) {
            const int c = (first + i) % 3;
            scale[i] = out.scale[c];
            shift[i] = out.shift[c];
            if (!kRecolours) continue;
            added[i] = source.colour[4 * c + 3];
            for (int k = 0; k < 5; ++k) {
                const int from = c + k - 2;
                mix[k][i] = from >= 0 && from < 3 ? source.colour[4 * c + from] : 0.0f;
            }
        }
    }

    // From the lines of the first pass, `from` being the group's place in the first of those that are averaged.
    template <bool kOnePair>
    __device__ void make(const uint8_t* from, const int32_t* weights, int pairs, float (&values)[kGroup]) const {
        if constexpr (!kRecolours) {
            unsigned sums[kGroup];
            average_lines<kOnePair, 2>(from, weights, pairs, sums);
#pragma unroll
            for (int i = 0; i < kGroup; ++i)
                values[i] = static_cast<float>(sums[i] >> kBits) * scale[i % 3] + shift[i % 3];
        } else {
            unsigned sums[16];
            average_lines<kOnePair, 4>(from - 4, weights, pairs, sums);
            float levels[16];
#pragma unroll
            for (int i = 0; i < 16; ++i) levels[i] = static_cast<float>(sums[i] >> kBits);
#pragma unroll
            for (int i = 0; i < kGroup; ++i) {
                float value = added[i % 3];
                for (int k = 0; k < 5; ++k) value += mix[k][i % 3] * levels[i + k + 2];
                value = value > 0 ? value : 0;
                value = value < 255 ? value : 255;
                values[i] = value * scale[i % 3] + shift[i % 3];
            }
        }
    }
};

// Numbers of a line, or lines, of a tile.
struct Part {
    int begin, end;
};

// The second pass and what follows it. to: the tile's beginning in the batch, of which there are line_end lines and
// number_end numbers; numbers and lines: what is drawn. The made lines begin with raw row `first_row`.
template <bool kRecolours, class T>
__device__ void finish_tile(const ResizeImage& image, const Output<T>& out, const int32_t* entry, int first_row,
                            const uint8_t* made, T* to, int number_end, int line_end, Part numbers, Part lines) {
    const int number = threadIdx.x % kGroupsPerLine * kGroup;
    if (number >= number_end) return;
    const GroupFinish<kRecolours> finish_group(image.source, out, number);
    const bool whole = number >= numbers.begin && number + kGroup <= numbers.end;
    const int pairs = image.rows.pairs;
    made += number;
    to += number;
    for (int line = threadIdx.x / kGroupsPerLine; line < line_end; line += kTileThreads / kGroupsPerLine) {
        float values[kGroup] = {};
        if (line >= lines.begin && line < lines.end) {
            const int32_t* own = entry + (line - lines.begin) * (1 + pairs);
            const uint8_t* from = made + (own[0] - first_row) * kLineBytes;
            if (pairs == 1) {
                finish_group.template make<true>(from, own + 1, 1, values);
            } else {
                finish_group.template make<false>(from, own + 1, pairs, values);
            }
            if (!whole) {
#pragma unroll
                for (int k = 0; k < kGroup; ++k)
                    if (number + k < numbers.begin || number + k >= numbers.end) values[k] = 0;
            }
        }
        T* at = to + line * 3 * out.width;
        if (out.packed) {
            store_packs(values, at);
        } else {
#pragma unroll
            for (int k = 0; k < kGroup; ++k)
                if (number + k < number_end) at[k] = narrow<T>(values[k]);
        }
    }
}

// kRecolours: whether any of the images' colour matrices is not the identity.
template <bool kRecolours, class T>
__global__ void __launch_bounds__(kTileThreads, kRecolours ? 3 : 4)
    resize_tiles(const __grid_constant__ Group<ResizeImage> group, const __grid_constant__ Output<T> out,
                 const int32_t* tables) {
    extern __shared__ __align__(16) uint8_t shared[];
    const ResizeImage& image = group.images[blockIdx.z];
    const int64_t x = int64_t{blockIdx.y} * kTileColumns, y = int64_t{blockIdx.x} * image.tile_rows;
    if (y >= out.height) return;
    const Range columns{std::max(x, image.x.begin), std::min(x + kTileColumns, image.x.end)};
    const Range rows{std::max(y, image.y.begin), std::min(y + image.tile_rows, image.y.end)};
    uint8_t* made = shared + kLineMargin;
    Range raw{0, 0};
    Part numbers{0, 0}, lines{0, 0};
    const int32_t* entry = tables;
    if (columns.begin < columns.end && rows.begin < rows.end) {
        raw = raw_range(tables, image.rows, image.y, rows);
        make_lines(image, tables, x, columns, raw, made, reinterpret_cast<uint32_t*>(shared + image.line_buffer));
        numbers = {static_cast<int>(3 * (columns.begin - x)), static_cast<int>(3 * (columns.end - x))};
        lines = {static_cast<int>(rows.begin - y), static_cast<int>(rows.end - y)};
        entry = image.rows.entry(tables, image.y, rows.begin);
    }
    const auto number_end = static_cast<int>(std::min<int64_t>(3 * (out.width - x), kLineBytes));
    const auto line_end = static_cast<int>(std::min<int64_t>(out.height - y, image.tile_rows));
    finish_tile<kRecolours>(image, out, entry, static_cast<int>(raw.begin), made, out.line(image.source.row, y) + 3 * x,
                            number_end, line_end, numbers, lines);
}

}  // namespace detcore::warp
