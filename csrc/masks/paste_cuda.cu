// A warp samples 32 columns of a mask, each lane the rows of its own: along a column, a sample between the same two
// rows of the mask is one mix of two numbers. What comes out is bits, which pasting turns into bytes in a second step
// that writes 16 of them at once, wherever rows begin.
#include <algorithm>

#include "common/cuda.h"
#include "masks/paste.h"

namespace detcore::masks {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kPixels = 16;           // written by a thread at once
constexpr int kTilePixels = 1 << 16;  // pasted by a block at most, as bits in shared memory

template <class A>
struct Mask {
    const A* pixels;
    int64_t size;
    const A* box;

    __device__ Between<A> row(int64_t y) const { return between(box[1], box[3], y, size); }
    __device__ Between<A> column(int64_t x) const { return between(box[0], box[2], x, size); }

    // A row's value at a column; outside the mask all is 0.
    __device__ A at(int row, const Between<A>& column) const {
        if (row < 0 || row >= size) return 0;
        const int left = column.first;
        const A* from = pixels + row * size;
        return mixed(column.share, left >= 0 && left < size ? __ldg(from + left) : A(0),
                     left >= -1 && left + 1 < size ? __ldg(from + left + 1) : A(0));
    }
};

// Up to 32 rows of the image, a lane's own in each lane; bits of `starts`: the rows that lie between other rows of the
// mask than the row before, and the one after the last.
template <class A>
struct Rows {
    Between<A> own;
    int count;
    unsigned starts;

    // All lanes of the warp come here together.
    __device__ Rows(const Mask<A>& mask, int64_t begin, int rows) : count(rows) {
        const int lane = static_cast<int>(threadIdx.x % kWarp);
        own = mask.row(begin + lane);
        const int before = __shfl_up_sync(kAllLanes, own.first, 1);
        starts = __ballot_sync(kAllLanes, lane == 0 || own.first != before || lane >= count);
    }

    // The first row after `row` that starts anew.
    __device__ int next(int row) const {
        const unsigned later = starts & ~((2u << row) - 1);
        return later ? __ffs(static_cast<int>(later)) - 1 : kWarp;
    }
};

// The rows at which a lane's column belongs to the mask, the first in the lowest bit.
template <class A>
__device__ uint32_t sides(const Mask<A>& mask, const Rows<A>& rows, const Between<A>& column, A threshold) {
    uint32_t bits = 0;
    A upper = 0, lower = 0;
    int last = -9;
    for (int row = 0; row < rows.count;) {
        const int first = __shfl_sync(kAllLanes, rows.own.first, row);
        upper = first == last + 1 ? lower : mask.at(first, column);
        lower = mask.at(first + 1, column);
        last = first;
        const int end = rows.next(row);
#pragma unroll 4
        for (; row < end; ++row) {
            const A share = __shfl_sync(kAllLanes, rows.own.share, row);
            if (mixed(share, upper, lower) >= threshold) bits |= 1u << row;
        }
    }
    return bits;
}

// Bit j of lane i becomes bit i of lane j: squares of ever smaller side change places.
__device__ uint32_t transposed(uint32_t bits) {
    const unsigned lane = threadIdx.x % kWarp;
    uint32_t low = 0xffff;
#pragma unroll
    for (unsigned side = 16; side; side /= 2, low ^= low << side) {
        const uint32_t other = __shfl_xor_sync(kAllLanes, bits, side);
        bits = lane & side ? (bits & ~low) | (other >> side & low) : (bits & low) | (other & low) << side;
    }
    return bits;
}

inline DETCORE_HD Span common(const Span& a, const Span& b) {
    return {std::max(a.begin, b.begin), std::min(a.end, b.end)};
}

// The bytes of 16 pixels, given as bits.
__device__ Pack<uint32_t, 4> bytes_of(uint32_t bits) {
    Pack<uint32_t, 4> pack;
    // A product puts each of four bits into the lowest bit of its own byte.
#pragma unroll
    for (int i = 0; i < 4; ++i) pack.values[i] = (bits >> (4 * i) & 0xf) * 0x204081 & 0x1010101;
    return pack;
}

// Writes the pixels from `begin` to `end` of the output, which begins at a multiple of 16 bytes; `bits` begins at the
// multiple of 16 before `begin`. Packs that are not all of the tile's are written pixel by pixel.
__device__ void write(const uint32_t* bits, bool drawn, int64_t begin, int64_t end, bool* out) {
    out += begin / kPixels * kPixels;
    const int first = static_cast<int>(begin % kPixels), last = static_cast<int>(end - begin) + first;
    for (int i = static_cast<int>(threadIdx.x) * kPixels; i < last; i += kThreads * kPixels) {
        const uint32_t own = drawn ? bits[i / 32] >> (i % 32) & 0xffff : 0;
        if (i >= first && i + kPixels <= last) {
            bytes_of(own).store(reinterpret_cast<uint32_t*>(out + i));
        } else {
#pragma unroll 1
            for (int k = std::max(first - i, 0); k < std::min(int{kPixels}, last - i); ++k) out[i + k] = own >> k & 1;
        }
    }
}

// Sets the bits of the mask's pixels in `reached`; `origin`: of row 0, column 0 among the bits.
template <class A>
__device__ void draw(const Mask<A>& mask, const Window& reached, int64_t width, int64_t origin, A threshold,
                     uint32_t* bits) {
    const int lane = static_cast<int>(threadIdx.x % kWarp), warp = static_cast<int>(threadIdx.x / kWarp);
    const Rows<A> rows(mask, reached.y.begin, static_cast<int>(reached.y.end - reached.y.begin));
    const int64_t row_origin = origin + (reached.y.begin + lane) * width;
    for (int64_t x = reached.x.begin + warp * kWarp; x < reached.x.end; x += kThreads) {
        const uint32_t own = sides(mask, rows, mask.column(x + lane), threshold);
        const uint32_t row = transposed(x + lane < reached.x.end ? own : 0);
        if (row == 0) continue;
        const int place = static_cast<int>(row_origin + x), shift = place % 32;
        atomicOr(&bits[place / 32], row << shift);
        // What is shifted out goes into the next word, if there is any: behind the tile no bit is set.
        const uint32_t rest = shift ? row >> (32 - shift) : 0;
        if (rest) atomicOr(&bits[place / 32 + 1], rest);
    }
}

// A block pastes a tile: 32 rows or fewer of the whole width, or a part of one row where the image is wider than a
// tile. In the output a tile is one piece.
template <class A>
__global__ void __launch_bounds__(kThreads)
    paste(const A* masks, int64_t size, const A* boxes, int64_t first_mask, int64_t height, int64_t width,
          int tile_rows, int tile_columns, unsigned tiles_across, A threshold, bool* out) {
    __shared__ uint32_t bits[kTilePixels / 32 + 1];
    const int64_t k = first_mask + blockIdx.y;
    const int64_t y = int64_t{blockIdx.x / tiles_across} * tile_rows,
                  x = int64_t{blockIdx.x % tiles_across} * tile_columns;
    const Window tile{{x, std::min(x + tile_columns, width)}, {y, std::min(y + tile_rows, height)}};
    const int64_t begin = (k * height + y) * width + x;
    const int64_t end = (k * height + tile.y.end - 1) * width + tile.x.end;
    A box[4];
    for (int i = 0; i < 4; ++i) box[i] = boxes[4 * k + i];
    const Window window = window_of(box, size, height, width);
    const Window reached{common(window.x, tile.x), common(window.y, tile.y)};
    const bool drawn = !reached.empty();
    if (drawn) {
        for (int i = threadIdx.x; i < kTilePixels / 32 + 1; i += kThreads) bits[i] = 0;
        __syncthreads();
        const int64_t origin = k * height * width - begin / kPixels * kPixels;
        draw(Mask<A>{masks + k * size * size, size, box}, reached, width, origin, threshold, bits);
        __syncthreads();
    }
    write(bits, drawn, begin, end, out);
}

// A warp packs 64 pixels of each of 32 columns.
template <class A>
__global__ void __launch_bounds__(kThreads)
    pack(const A* masks, int64_t size, const A* boxes, int64_t first_mask, const int64_t* windows,
         const int64_t* starts, A threshold, unsigned long long* out) {
    const int64_t k = first_mask + blockIdx.y;
    const int64_t x0 = windows[4 * k], y0 = windows[4 * k + 1], x1 = windows[4 * k + 2], y1 = windows[4 * k + 3];
    if (x0 >= x1 || y0 >= y1) return;
    const Mask<A> mask{masks + k * size * size, size, boxes + 4 * k};
    // Fewer than 2^32 parts: so many would be 8 TiB of bits.
    const auto words = static_cast<unsigned>((y1 - y0 + 63) / 64);
    const auto strips = static_cast<unsigned>((x1 - x0 + kWarp - 1) / kWarp);
    const unsigned warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    for (unsigned i = blockIdx.x * kWarps + warp; i < words * strips; i += gridDim.x * kWarps) {
        const unsigned word = i / strips;
        const int64_t x = x0 + int64_t{i - word * strips} * kWarp + lane;
        const Between<A> column = mask.column(x);
        unsigned long long bits = 0;
        for (int half = 0; half < 2; ++half) {
            const int64_t y = y0 + 64 * int64_t{word} + 32 * half;
            const int count = static_cast<int>(std::clamp<int64_t>(y1 - y, 0, 32));
            bits |= static_cast<unsigned long long>(sides(mask, Rows<A>(mask, y, count), column, threshold))
                    << (32 * half);
        }
        if (x < x1) out[starts[k] + (x - x0) * words + word] = bits;
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
    const int64_t count = masks.size(0), size = masks.size(1);
    Tensor out = new_tensor_on(masks, {count, height, width}, ScalarType::Bool);
    if (count == 0 || height == 0 || width == 0) return out;
    // The tile's first pixel may be the last of the 16 that its bits begin with.
    const int64_t most = kTilePixels - kPixels, columns = std::min(width, most);
    const int64_t rows = std::clamp<int64_t>(most / width, 1, kWarp);
    const int64_t across = (width + columns - 1) / columns, tiles = (height + rows - 1) / rows * across;
    const auto run = [&]<class A>(A) {
        const Tensor own_masks = as<A>(masks), own_boxes = as<A>(boxes);
        for_masks(count, static_cast<unsigned>(tiles), [&](int64_t first, dim3 grid) {
            paste<A><<<grid, kThreads, 0, device.stream()>>>(data<A>(own_masks), size, data<A>(own_boxes), first,
                                                             height, width, static_cast<int>(rows),
                                                             static_cast<int>(columns), static_cast<unsigned>(across),
                                                             static_cast<A>(threshold), mutable_data<bool>(out));
        });
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
