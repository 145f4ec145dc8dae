// The result is mostly zeros, and writing it is what takes the time: a thread writes 16 pixels at once, and looks at
// the mask only where the box is.
#include <algorithm>

#include "common/cuda.h"
#include "masks/paste.h"

namespace detcore::masks {
namespace {

constexpr int kThreads = 256;
constexpr int kPixels = 16;         // of a thread at once
constexpr int kStepsPerThread = 8;  // enough to hide what a block does first

template <class A>
struct Mask {
    const A* pixels;
    int64_t size;
    const A* box;

    template <class Index>
    __device__ Between<A> row(Index y) const {
        return between(box[1], box[3], y, size);
    }
    template <class Index>
    __device__ Between<A> column(Index x) const {
        return between(box[0], box[2], x, size);
    }

    // Outside the mask all is 0.
    __device__ A at(int row, int column) const {
        return row >= 0 && row < size && column >= 0 && column < size ? __ldg(pixels + row * size + column) : A(0);
    }

    __device__ A sample(const Between<A>& row, const Between<A>& column) const {
        const int top = row.first, left = column.first;
        return mixed(row.share, column.share, at(top, left), at(top, left + 1), at(top + 1, left),
                     at(top + 1, left + 1));
    }
};

// Index: of a pixel in its image. A mask's pixels lie one after the other, at offset `start` in the output, which
// begins at a multiple of 16 bytes; packs of 16 that two masks share are written pixel by pixel.
template <class A, class Index>
__device__ void paste_pack(const Mask<A>& mask, const Window& window, Index first, Index width, Index pixels,
                           A threshold, bool* out) {
    const Index begin = std::max(first, Index{0}), end = std::min<Index>(first + kPixels, pixels);
    Index y = begin / width, x = begin - y * width;
    const Index last = (end - 1) / width;
    bool zero = last < window.y.begin || y >= window.y.end;
    if (y == last) zero = zero || x + (end - begin) <= window.x.begin || x >= window.x.end;
    Pack<uint32_t, 4> pack{};
    if (!zero) {
        Between<A> row = mask.row(y);
#pragma unroll
        for (int i = 0; i < kPixels; ++i) {
            const Index place = first + i;
            if (place < begin || place >= end) continue;
            if (x >= window.x.begin && x < window.x.end && y >= window.y.begin && y < window.y.end &&
                mask.sample(row, mask.column(x)) >= threshold)
                pack.values[i / 4] |= 1u << (8 * (i % 4));
            if (++x == width) {
                x = 0;
                row = mask.row(++y);
            }
        }
    }
    if (end - begin == kPixels) {
        pack.store(reinterpret_cast<uint32_t*>(out + first));
    } else {
#pragma unroll
        for (int i = 0; i < kPixels; ++i)
            if (first + i >= begin && first + i < end) out[first + i] = pack.values[i / 4] >> (8 * (i % 4)) & 1;
    }
}

template <class A, class Index>
__global__ void __launch_bounds__(kThreads) paste(const A* masks, int64_t size, const A* boxes, int64_t first_mask,
                                                  int64_t height, int64_t width, A threshold, bool* out) {
    const int64_t k = first_mask + blockIdx.y;
    A box[4];
    for (int i = 0; i < 4; ++i) box[i] = boxes[4 * k + i];
    const Window window = window_of(box, size, height, width);
    const Mask<A> mask{masks + k * size * size, size, box};
    const int64_t start = k * height * width, pixels = height * width;
    const int64_t begin = start / kPixels, end = (start + pixels + kPixels - 1) / kPixels;
    const int64_t step = int64_t{gridDim.x} * kThreads;
    for (int64_t pack = begin + int64_t{blockIdx.x} * kThreads + threadIdx.x; pack < end; pack += step)
        paste_pack<A, Index>(mask, window, static_cast<Index>(pack * kPixels - start), static_cast<Index>(width),
                             static_cast<Index>(pixels), threshold, out + start);
}

// A thread packs 64 pixels of a column.
template <class A>
__global__ void __launch_bounds__(kThreads)
    pack(const A* masks, int64_t size, const A* boxes, int64_t first_mask, const int64_t* windows,
         const int64_t* starts, A threshold, unsigned long long* out) {
    const int64_t k = first_mask + blockIdx.y;
    const int64_t x0 = windows[4 * k], y0 = windows[4 * k + 1], x1 = windows[4 * k + 2], y1 = windows[4 * k + 3];
    if (x0 >= x1 || y0 >= y1) return;
    const Mask<A> mask{masks + k * size * size, size, boxes + 4 * k};
    const int64_t words = (y1 - y0 + 63) / 64, count = (x1 - x0) * words;
    const int64_t step = int64_t{gridDim.x} * kThreads;
    // Neighbouring threads take neighbouring columns, which read the same rows of the mask.
    for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step) {
        const int64_t word = i / (x1 - x0), x = x0 + i - word * (x1 - x0), y = y0 + 64 * word;
        const Between<A> column = mask.column(x);
        const int rows = static_cast<int>(std::min<int64_t>(64, y1 - y));
        unsigned long long bits = 0;
        for (int bit = 0; bit < rows; ++bit)
            bits |= static_cast<unsigned long long>(mask.sample(mask.row(y + bit), column) >= threshold) << bit;
        out[starts[k] + (x - x0) * words + word] = bits;
    }
}

// Calls launch(first mask, grid) for all masks; a grid has at most 65,535 rows.
template <class F>
void for_masks(int64_t count, unsigned blocks_of_one, const F& launch) {
    for (int64_t first = 0; first < count; first += 65535) {
        launch(first, dim3(blocks_of_one, static_cast<unsigned>(std::min<int64_t>(count - first, 65535))));
        STD_CUDA_KERNEL_LAUNCH_CHECK();
    }
}

}  // namespace

Tensor paste_masks(const Tensor& masks, const Tensor& boxes, int64_t height, int64_t width, double threshold) {
    const OnDevice device(masks);
    const int64_t count = masks.size(0), size = masks.size(1), pixels = height * width;
    Tensor out = new_tensor_on(masks, {count, height, width}, ScalarType::Bool);
    if (count == 0 || pixels == 0) return out;
    const unsigned blocks = blocks_for(pixels + kPixels, kThreads * kPixels * kStepsPerThread);
    const auto run = [&]<class A>(A) {
        const Tensor own_masks = as<A>(masks), own_boxes = as<A>(boxes);
        const auto launch = [&]<class Index>(Index) {
            for_masks(count, blocks, [&](int64_t first, dim3 grid) {
                paste<A, Index><<<grid, kThreads, 0, device.stream()>>>(data<A>(own_masks), size, data<A>(own_boxes),
                                                                        first, height, width, static_cast<A>(threshold),
                                                                        mutable_data<bool>(out));
            });
        };
        pixels < (int64_t{1} << 31) - 64 ? launch(int32_t{}) : launch(int64_t{});
    };
    masks.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
    return out;
}

Tensor pack_masks(const Tensor& masks, const Tensor& boxes, const Tensor& windows, const Tensor& starts,
                  int64_t num_words, double threshold) {
    const OnDevice device(masks);
    const int64_t count = masks.size(0), size = masks.size(1);
    Tensor out = new_tensor_on(masks, {num_words}, ScalarType::Long);
    if (count == 0 || num_words == 0) return out;
    const Tensor own_windows = as<int64_t>(windows), own_starts = as<int64_t>(starts);
    // Masks are of all sizes: enough blocks for twice the mean.
    const auto blocks = std::min(blocks_for(2 * num_words / count, kThreads), 1024u);
    const auto run = [&]<class A>(A) {
        const Tensor own_masks = as<A>(masks), own_boxes = as<A>(boxes);
        for_masks(count, blocks, [&](int64_t first, dim3 grid) {
            pack<A><<<grid, kThreads, 0, device.stream()>>>(data<A>(own_masks), size, data<A>(own_boxes), first,
                                                            data<int64_t>(own_windows), data<int64_t>(own_starts),
                                                            static_cast<A>(threshold),
                                                            static_cast<unsigned long long*>(out.mutable_data_ptr()));
        });
    };
    masks.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
    return out;
}

}  // namespace detcore::masks

STABLE_TORCH_LIBRARY_IMPL(detcore, CUDA, m) {
    m.impl("paste_masks", TORCH_BOX(&detcore::masks::paste_masks));
    m.impl("pack_masks", TORCH_BOX(&detcore::masks::pack_masks));
}
