#include "nms/warp_queue.h"
#include "rotated/near.h"

namespace detcore::rotated {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp, kRows = 64;

__global__ void resolve(Boxes boxes, int64_t count, Frame* frames, Circle* circles) {
    const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const Frame frame = frame_of(boxes[i]);
    frames[i] = frame;
    circles[i] = circle_of(frame);
}

struct Resolved {
    const Frame* frames;
    const Circle* circles;
    int64_t count;
};

// A warp has 64 rows of 32 columns, a column to each lane.
template <class T>
__global__ void __launch_bounds__(kThreads) iou_of_pairs(Resolved a, Resolved b, T* out) {
    __shared__ uint16_t memory[kWarps][nms::WarpQueue::kCapacity];
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    const int64_t across = (b.count + kWarp - 1) / kWarp, down = (a.count + kRows - 1) / kRows;
    nms::WarpQueue queue(memory[warp]);
    for (int64_t task = int64_t{blockIdx.x} * kWarps + warp; task < across * down;
         task += int64_t{gridDim.x} * kWarps) {
        const int64_t first_row = task / across * kRows, first_column = task % across * kWarp;
        const int64_t column = first_column + lane;
        const Circle own = column < b.count ? b.circles[column] : no_circle();
        const int rows = static_cast<int>(a.count - first_row < kRows ? a.count - first_row : kRows);
        const auto compute = [&](int item) {
            const int64_t i = first_row + item / kWarp, j = first_column + item % kWarp;
            out[i * b.count + j] = static_cast<T>(iou(a.frames[i], b.frames[j]));
        };
#pragma unroll 4
        for (int row = 0; row < rows; ++row) {
            const bool meet = near(a.circles[first_row + row], own);
            if (!meet && column < b.count) out[(first_row + row) * b.count + column] = T(0);
            queue.push(meet, row * kWarp + lane, compute);
        }
        queue.finish(compute);
    }
}

}  // namespace

Tensor box_iou_rotated(const Tensor& a, const Tensor& b) {
    const OnDevice device(a);
    const int64_t rows = a.size(0), columns = b.size(0), count = rows + columns;
    const ScalarType type = a.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
    Tensor out = new_tensor_on(a, {rows, columns}, type);
    if (rows == 0 || columns == 0) return out;
    const auto memory = [&](size_t bytes_of_box) {
        return new_tensor_on(a, {count * static_cast<int64_t>(bytes_of_box)}, ScalarType::Byte);
    };
    const Tensor frame_memory = memory(sizeof(Frame)), circle_memory = memory(sizeof(Circle));
    auto* frames = reinterpret_cast<Frame*>(mutable_data<uint8_t>(frame_memory));
    auto* circles = reinterpret_cast<Circle*>(mutable_data<uint8_t>(circle_memory));
    int64_t first = 0;
    for (const Tensor* boxes : {&a, &b}) {
        const bool doubles = boxes->scalar_type() == ScalarType::Double;
        const Tensor own = doubles ? as<double>(*boxes) : as<float>(*boxes);
        const int64_t size = own.size(0);
        resolve<<<blocks_for(size, kThreads), kThreads, 0, device.stream()>>>({own.const_data_ptr(), doubles}, size,
                                                                              frames + first, circles + first);
        STD_CUDA_KERNEL_LAUNCH_CHECK();
        first += size;
    }
    const int64_t tasks = ((columns + kWarp - 1) / kWarp) * ((rows + kRows - 1) / kRows);
    const auto fill = [&]<class T>(T* to) {
        iou_of_pairs<<<blocks_for(tasks, kWarps), kThreads, 0, device.stream()>>>(
            Resolved{frames, circles, rows}, Resolved{frames + rows, circles + rows, columns}, to);
        STD_CUDA_KERNEL_LAUNCH_CHECK();
    };
    if (type == ScalarType::Double) {
        fill(mutable_data<double>(out));
    } else {
        fill(mutable_data<float>(out));
    }
    return out;
}

}  // namespace detcore::rotated

STABLE_TORCH_LIBRARY_IMPL(detcore, CUDA, m) {
    m.impl("box_iou_rotated", TORCH_BOX(&detcore::rotated::box_iou_rotated));
}
