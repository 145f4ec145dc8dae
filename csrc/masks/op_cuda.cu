// A block of threads draws the mask of one box. The sides of its pixels are bits, a column after the other in words of
// 32 rows; a thread takes an edge of the outline, and crossings change bits by atomic exclusive or, whose order does
// not matter.
#include <algorithm>

#include "common/cuda.h"
#include "masks/op.h"

namespace detcore::masks {
namespace {

constexpr int kThreads = 128;
// Shared memory that every device grants unasked; larger masks are drawn in global memory.
constexpr int64_t kSharedBytes = 46 * 1024;
constexpr int64_t kScratchBytes = int64_t{1} << 28;

template <class T>
struct Outlines {
    const T* vertices;
    const int64_t *starts, *counts, *objects;
    int64_t num_vertices, num_rings;
};

template <class T>
__device__ FinePoint placed(const T* vertex, const double* box, double scale_x, double scale_y) {
    return fine_point((static_cast<double>(vertex[0]) - box[0]) * scale_x,
                      (static_cast<double>(vertex[1]) - box[1]) * scale_y);
}

// Exclusive or of each word's bits with all before them, the words before included; adds the result to `inside`. One
// warp does it.
__device__ void fill(const uint32_t* toggles, uint32_t* inside, int num_words) {
    const unsigned lane = threadIdx.x % kWarp;
    uint32_t carry = 0;  // 1 where the pixel before lies inside
    for (int base = 0; base < num_words; base += kWarp) {
        const int word = base + static_cast<int>(lane);
        uint32_t sides = word < num_words ? toggles[word] : 0;
        const unsigned odd = __ballot_sync(kAllLanes, __popc(sides) & 1);
        for (int shift = 1; shift < 32; shift *= 2) sides ^= sides << shift;
        const uint32_t before = (carry + __popc(odd & ((1u << lane) - 1))) & 1;
        if (word < num_words) inside[word] |= sides ^ (0u - before);
        carry = (carry + __popc(odd)) & 1;
    }
}

// Adds what a ring encloses. All threads of the block come here together.
template <class T>
__device__ void add_ring(const T* ring, int64_t count, const double* box, int size, int words, uint32_t* toggles,
                         uint32_t* inside) {
    bool broken = false;
    for (int64_t i = threadIdx.x; i < 2 * count; i += kThreads) broken |= !std::isfinite(static_cast<double>(ring[i]));
    for (int i = threadIdx.x; i < size * words; i += kThreads) toggles[i] = 0;
    if (__syncthreads_or(broken)) return;
    const double scale_x = scale_of(box[0], box[2], size), scale_y = scale_of(box[1], box[3], size);
    for (int64_t i = threadIdx.x; i < count; i += kThreads) {
        const FinePoint a = placed(ring + 2 * (i ? i - 1 : count - 1), box, scale_x, scale_y);
        cross_columns(a, placed(ring + 2 * i, box, scale_x, scale_y), size, [&](int column, int row) {
            // The row below the last is the first of the next column: that is how pycocotools counts pixels.
            if (row == size) ++column, row = 0;
            if (column < size) atomicXor(&toggles[column * words + row / 32], 1u << (row % 32));
        });
    }
    __syncthreads();
    if (threadIdx.x < kWarp) fill(toggles, inside, size * words);
    // The next ring's clearing of the toggles must wait for it.
    __syncthreads();
}

// Bits by columns to bytes by rows, four at a time where the masks begin at multiples of four.
__device__ void write(const uint32_t* inside, int size, int words, bool* out) {
    const int pixels = size * size, group = pixels % 4 ? 1 : 4;
    for (int i = group * static_cast<int>(threadIdx.x); i < pixels; i += group * kThreads) {
        int row = i / size, column = i - row * size;
        uint32_t bytes = 0;
        for (int k = 0; k < group; ++k) {
            bytes |= (inside[column * words + row / 32] >> (row % 32) & 1) << (8 * k);
            if (++column == size) column = 0, ++row;
        }
        if (group == 4) {
            *reinterpret_cast<uint32_t*>(out + i) = bytes;
        } else {
            out[i] = bytes;
        }
    }
}

// scratch: two numbers of bits for every block, or null where shared memory holds them.
template <class T>
__global__ void __launch_bounds__(kThreads, 8)
    draw(Outlines<T> outlines, const T* boxes, const int64_t* objects, int64_t count, int64_t num_boxes, int size,
         uint32_t* scratch, bool* out) {
    extern __shared__ uint32_t shared[];
    __shared__ int64_t own_rings[kThreads];
    __shared__ int num_own;
    const int words = (size + 31) / 32, num_words = size * words;
    uint32_t* toggles = scratch ? scratch + int64_t{blockIdx.x} * 2 * num_words : shared;
    uint32_t* inside = toggles + num_words;
    for (int64_t k = blockIdx.x; k < count; k += gridDim.x) {
        const int64_t image = k / num_boxes, object = objects[k];
        double box[4];
        for (int i = 0; i < 4; ++i) box[i] = static_cast<double>(boxes[4 * k + i]);
        for (int i = threadIdx.x; i < num_words; i += kThreads) inside[i] = 0;
        const int64_t num_rings = object < 0 || !drawable(box) ? 0 : outlines.num_rings;
        for (int64_t base = 0; base < num_rings; base += kThreads) {
            if (threadIdx.x == 0) num_own = 0;
            __syncthreads();
            const int64_t ring = image * num_rings + base + threadIdx.x;
            if (base + threadIdx.x < num_rings && outlines.objects[ring] == object &&
                usable(outlines.starts[ring], outlines.counts[ring], outlines.num_vertices)) {
                own_rings[atomicAdd(&num_own, 1)] = ring;  // in any order: they are joined by or
            }
            __syncthreads();
            for (int i = 0, end = num_own; i < end; ++i) {
                const int64_t own = own_rings[i];
                add_ring(outlines.vertices + 2 * (image * outlines.num_vertices + outlines.starts[own]),
                         outlines.counts[own], box, size, words, toggles, inside);
            }
            // All have read num_own before it is set again.
            __syncthreads();
        }
        __syncthreads();
        write(inside, size, words, out + k * size * size);
        // The next box's clearing must wait for it.
        __syncthreads();
    }
}

}  // namespace

Tensor polygon_roi_masks(const Tensor& vertices, const Tensor& ring_starts, const Tensor& ring_counts,
                         const Tensor& ring_objects, const Tensor& boxes, const Tensor& objects, int64_t size) {
    const OnDevice device(boxes);
    STD_TORCH_CHECK(size <= 32768, "polygon_roi_masks: masks of ", size, " pixels a side are too large");
    const int64_t num_boxes = boxes.size(1), count = boxes.size(0) * num_boxes;
    Tensor out = new_tensor_on(boxes, {boxes.size(0), num_boxes, size, size}, ScalarType::Bool);
    if (count == 0 || size == 0) return out;
    const Tensor starts = as<int64_t>(ring_starts), counts = as<int64_t>(ring_counts);
    const Tensor owners = as<int64_t>(ring_objects), wanted = as<int64_t>(objects);
    const int64_t bytes = 2 * size * ((size + 31) / 32) * 4;
    const bool in_shared = bytes <= kSharedBytes;
    const int64_t fit =
        std::max<int64_t>(1, std::min<int64_t>(8 * device.num_multiprocessors(), kScratchBytes / bytes));
    const int64_t most = in_shared ? int64_t{1} << 30 : fit;
    const auto blocks = static_cast<unsigned>(std::min(count, most));
    const Tensor scratch = new_tensor_on(boxes, {in_shared ? 0 : blocks * (bytes / 4)}, ScalarType::Int);
    const auto run = [&]<class T>(T) {
        const Tensor own_vertices = as<T>(vertices), own_boxes = as<T>(boxes);
        const Outlines<T> outlines{data<T>(own_vertices), data<int64_t>(starts), data<int64_t>(counts),
                                   data<int64_t>(owners), vertices.size(1),      starts.size(1)};
        auto* global = in_shared ? nullptr : static_cast<uint32_t*>(scratch.mutable_data_ptr());
        draw<T><<<blocks, kThreads, in_shared ? bytes : 0, device.stream()>>>(
            outlines, data<T>(own_boxes), data<int64_t>(wanted), count, num_boxes, static_cast<int>(size), global,
            mutable_data<bool>(out));
        STD_CUDA_KERNEL_LAUNCH_CHECK();
    };
    // Float32 holds every number of the shorter types.
    const bool wide = vertices.scalar_type() == ScalarType::Double || boxes.scalar_type() == ScalarType::Double;
    wide ? run(double{}) : run(float{});
    return out;
}

}  // namespace detcore::masks

STABLE_TORCH_LIBRARY_IMPL(detcore, CUDA, m) {
    m.impl("polygon_roi_masks", TORCH_BOX(&detcore::masks::polygon_roi_masks));
}
