// RoIs on the CPU: read from their tensor, and their gradients gathered by rows of pixels.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "common/parallel.h"
#include "common/tensor.h"
#include "roi_align/op.h"
#include "roi_align/transpose.h"

namespace detcore::roi_align {

// grid(row) for every row of the tensor that is valid, one that reads nothing for the others.
template <class A, class F>
std::vector<Grid<A>> read_grids(const Tensor& rois, const std::optional<Tensor>& valid, const F& grid) {
    const Tensor own = as<A>(rois);
    const A* row = data<A>(own);
    std::optional<Tensor> mask;
    if (valid) mask = as<bool>(*valid);
    const bool* is_valid = mask ? data<bool>(*mask) : nullptr;
    std::vector<Grid<A>> out(own.size(0));
    for (size_t k = 0; k < out.size(); ++k, row += own.size(1)) {
        if (!is_valid || is_valid[k]) {
            out[k] = grid(row);
        } else {
            out[k].level = -1;
        }
    }
    return out;
}

// A few rows of one image of one level, which belong to one task alone.
struct Strip {
    int level, image, first_row, end_row;
};

constexpr int kRowsPerTask = 16;

// The gradient of every level, strip by strip: add(k, strip, sums) adds RoI k's share to the strip's pixels, which lie
// with the channels last. RoIs come in rising order, so that any number of threads gives the same bits.
template <class T, class F>
void gather_strips(const std::vector<Grid<Accumulator<T>>>& grids, const std::vector<Level<Accumulator<T>>>& levels,
                   int64_t batch, int64_t channels, bool channels_last, std::vector<Tensor>& out, const F& add) {
    using A = Accumulator<T>;
    std::vector<std::vector<int64_t>> members(levels.size() * batch);
    for (size_t k = 0; k < grids.size(); ++k)
        if (grids[k].level >= 0) members[grids[k].level * batch + grids[k].image].push_back(static_cast<int64_t>(k));
    std::vector<Strip> strips;
    for (size_t level = 0; level < levels.size(); ++level)
        for (int64_t image = 0; image < batch; ++image)
            for (int row = 0; row < levels[level].height; row += kRowsPerTask)
                strips.push_back({static_cast<int>(level), static_cast<int>(image), row,
                                  std::min(row + kRowsPerTask, levels[level].height)});
    const bool in_place = channels_last && std::is_same_v<T, A>;
    parallel_tasks(static_cast<int64_t>(strips.size()), [&](int64_t task) {
        thread_local std::vector<A> own;
        const Strip strip = strips[task];
        const int64_t height = levels[strip.level].height, width = levels[strip.level].width;
        const int64_t row_length = width * channels, length = (strip.end_row - strip.first_row) * row_length;
        T* to = mutable_data<T>(out[strip.level]) + strip.image * height * row_length;
        A* sum;
        if (in_place) {
            sum = reinterpret_cast<A*>(to + strip.first_row * row_length);
        } else {
            own.resize(length);
            sum = own.data();
        }
        std::fill_n(sum, length, A(0));
        for (int64_t k : members[strip.level * batch + strip.image]) add(k, strip, sum);
        if (in_place) return;
        if (channels_last) {
            for (int64_t i = 0; i < length; ++i) to[strip.first_row * row_length + i] = narrow<T>(sum[i]);
            return;
        }
        transpose(sum, channels, (strip.end_row - strip.first_row) * width, channels, to + strip.first_row * width,
                  height * width);
    });
}

}  // namespace detcore::roi_align
