// Resize with PIL's antialiased bilinear filter, one pass for each axis, of which the first rounds to 8 bits.
#pragma once

#include <cstring>
#include <vector>

#include "common/lanes.h"
#include "warp/columns.h"
#include "warp/finish.h"
#include "warp/op.h"

namespace detcore::warp {

// The rounded weighted mean of rows of bytes, as floats. Rows may be read up to a block beyond their length.
struct MeanOfRows {
    const uint8_t* rows;
    int64_t row_bytes;
    const float* weights;
    int taps;

    // Of the numbers from a place on.
    Lanes<float> operator()(int64_t at) const {
        Lanes<float> sum = {Lanes<float>::zero().v + 0.5f};
        for (int k = 0; k < taps; ++k) sum.add(weights[k], Lanes<float>::load(rows + k * row_bytes + at));
        sum.round_down();
        return sum;
    }

    void store(int64_t length, float* out) const {
        for (int64_t at = 0; at < length; at += Lanes<float>::count) (*this)(at).store(out + at);
    }
};

// Memory that a thread keeps from image to image.
struct Scratch {
    std::vector<uint8_t> rows, raw_row, resized_rows;
    std::vector<float> levels, coverage;

    float* level_row(int64_t length) {
        levels.assign(std::max<size_t>(levels.size(), length + 3 * kMargin), 0.0f);
        return levels.data() + kMargin;
    }
};

inline int64_t padded(int64_t bytes) {
    return (bytes + 2 * kBlock + 63) / 64 * 64;
}

// image (height, width, 3) into rows y.begin to y.end of out (.., out_width, 3), columns from x.begin on.
template <class T>
void resize(const uint8_t* image, const Axis& x, const Axis& y, const Finish& finish, int64_t out_width, T* out,
            Scratch& scratch) {
    const int64_t width = x.raw, pixels = x.end - x.begin, lines = y.end - y.begin;
    float* levels = scratch.level_row(3 * pixels);
    Filter vertical(y);
    int64_t height = y.raw;
    if (rows_first(x, y)) {  // the vertical pass now, and none later
        const int64_t row_bytes = 3 * width, bytes = padded(height * row_bytes);
        scratch.raw_row.resize(bytes);
        std::memcpy(scratch.raw_row.data(), image, height * row_bytes);
        scratch.resized_rows.resize(padded(lines * row_bytes));
        std::vector<float> means(padded(row_bytes));
        for (int64_t i = 0; i < lines; ++i) {
            const MeanOfRows mean{scratch.raw_row.data() + vertical.first[i] * row_bytes, row_bytes,
                                  &vertical.weights[i * vertical.stride], vertical.taps[i]};
            mean.store(row_bytes, means.data());
            for (int64_t k = 0; k < row_bytes; ++k)
                scratch.resized_rows[i * row_bytes + k] = static_cast<uint8_t>(means[k]);
        }
        image = scratch.resized_rows.data();
        height = lines;
        vertical = Filter(lines);
    }
    const Columns columns{Filter(x)};
    const int64_t stride = padded(3 * pixels), row_bytes = 3 * width;
    scratch.rows.resize(height * stride);
    std::vector<uint8_t> edge(std::max(columns.reach(), row_bytes), 0);
    std::vector<char> made(height, 0);
    for (int64_t i = 0; i < lines; ++i) {
        const int64_t first = vertical.first[i];
        for (int64_t row = first; row < first + vertical.taps[i]; ++row) {
            if (made[row]) continue;
            const uint8_t* from = image + row * row_bytes;
            if ((height - row) * row_bytes < columns.reach()) {
                std::memcpy(edge.data(), from, row_bytes);
                from = edge.data();
            }
            columns.row(from, scratch.rows.data() + row * stride);
            made[row] = 1;
        }
        const MeanOfRows mean{scratch.rows.data() + first * stride, stride, &vertical.weights[i * vertical.stride],
                              vertical.taps[i]};
        T* to = out + ((y.begin + i) * out_width + x.begin) * 3;
        if (finish.recolours()) {
            mean.store(3 * pixels, levels);
            finish.row(levels, nullptr, pixels, to);
        } else {
            finish.row_as_it_is(mean, pixels, to);
        }
    }
}

}  // namespace detcore::warp
