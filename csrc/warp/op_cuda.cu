#include <algorithm>
#include <vector>

#include "common/cuda.h"
#include "common/tensor.h"
#include "warp/batch.h"
#include "warp/launches.h"
#include "warp/op.h"
#include "warp/resize_kernel.h"
#include "warp/resize_pixels_kernel.h"
#include "warp/supersample_kernel.h"

namespace detcore::warp {
namespace {

// The images of a batch by what is done with them.
struct Work {
    std::vector<ResizeImage> tiles, recoloured_tiles, pixels;
    std::vector<SampledImage> samples;
    int64_t table_words = 0;
};

Work work_of(const std::vector<Tensor>& images, const Tensor& geometry, const Tensor& colour, const Tensor& contents) {
    Work work;
    for (size_t i = 0; i < images.size(); ++i) {
        Source source{
            data<uint8_t>(images[i]), {images[i].size(0), images[i].size(1)}, static_cast<int64_t>(i), {}, false};
        std::copy_n(data<float>(colour) + 12 * i, 12, source.colour);
        for (int k = 0; k < 12; ++k) source.recolours |= source.colour[k] != (k % 5 == 0 ? 1.0f : 0.0f);
        const int64_t* content = data<int64_t>(contents) + 2 * i;
        const Plan plan = plan_of(source.raw, data<double>(geometry) + 9 * i, {content[0], content[1]});
        if (plan.kind == Plan::Kind::kSupersample) {
            work.samples.push_back(sampled_image(source, plan));
            continue;
        }
        const ResizeImage image = resize_image(source, plan, &work.table_words);
        auto& tiles = source.recolours ? work.recoloured_tiles : work.tiles;
        (image.tile_rows ? tiles : work.pixels).push_back(image);
    }
    return work;
}

template <class T>
Output<T> output_of(const Tensor& out, const std::vector<double>& mean, const std::vector<double>& std) {
    Output<T> output{mutable_data<T>(out), out.size(1), out.size(2), {}, {}, false};
    for (int c = 0; c < 3; ++c) {
        output.scale[c] = static_cast<float>(1 / std[c]);
        output.shift[c] = static_cast<float>(-mean[c] / std[c]);
    }
    output.packed = packs(output.numbers, 3 * output.width, kGroup);
    return output;
}

unsigned blocks(int64_t length, int64_t per_block) {
    return static_cast<unsigned>((length + per_block - 1) / per_block);
}

// Calls launch(group, number of images in it).
template <class Image, class F>
void in_groups(const std::vector<Image>& images, const F& launch) {
    for (size_t first = 0; first < images.size(); first += kImagesPerLaunch) {
        const size_t count = std::min<size_t>(images.size() - first, kImagesPerLaunch);
        Group<Image> group{};
        std::copy_n(images.begin() + static_cast<int64_t>(first), count, group.images);
        launch(group, static_cast<unsigned>(count));
    }
}

void make_tables(const Group<ResizeImage>& group, unsigned count, int32_t* tables, cudaStream_t stream) {
    int64_t entries = 0;
    for (unsigned i = 0; i < count; ++i) {
        const ResizeImage& image = group.images[i];
        entries = std::max(entries, image.x.end - image.x.begin + image.y.end - image.y.begin);
    }
    if (entries == 0) return;
    tabulate<<<dim3(blocks_for(entries, 128), count), 128, 0, stream>>>(group, tables);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <bool kRecolours, class T>
void resize_in_tiles(const std::vector<ResizeImage>& images, const Output<T>& out, int32_t* tables,
                     cudaStream_t stream) {
    in_groups(images, [&](const Group<ResizeImage>& group, unsigned count) {
        int64_t memory = kLineMargin;
        int rows = kMostTileRows;
        for (unsigned i = 0; i < count; ++i) {
            memory = std::max(memory, tile_memory(group.images[i]));
            rows = std::min(rows, group.images[i].tile_rows);
        }
        make_tables(group, count, tables, stream);
        const dim3 grid(blocks(out.height, rows), blocks(out.width, kTileColumns), count);
        resize_tiles<kRecolours><<<grid, kTileThreads, memory, stream>>>(group, out, tables);
        STD_CUDA_KERNEL_LAUNCH_CHECK();
    });
}

template <class T>
void resize_by_pixels(const std::vector<ResizeImage>& images, const Output<T>& out, int32_t* tables,
                      cudaStream_t stream) {
    in_groups(images, [&](const Group<ResizeImage>& group, unsigned count) {
        make_tables(group, count, tables, stream);
        const dim3 grid(blocks(out.height, kPixelTileLines), blocks(out.width, kPixelTileSide), count);
        constexpr int kThreads = kPixelTileSide * kPixelTileLines;
        resize_pixels<<<grid, kThreads, 3 * kThreads * sizeof(T), stream>>>(group, out, tables);
        STD_CUDA_KERNEL_LAUNCH_CHECK();
    });
}

template <class T>
void supersample_in_tiles(const std::vector<SampledImage>& images, const Output<T>& out, cudaStream_t stream) {
    in_groups(images, [&](const Group<SampledImage>& group, unsigned count) {
        int side = 32;
        int64_t memory = 0;
        for (unsigned i = 0; i < count; ++i) {
            side = std::min(side, group.images[i].side);
            memory = std::max(memory, sample_memory<T>(group.images[i]));
        }
        const dim3 grid(blocks(out.height, side), blocks(out.width, side), count);
        supersample<T><<<grid, kSampleThreads, memory, stream>>>(group, out);
        STD_CUDA_KERNEL_LAUNCH_CHECK();
    });
}

}  // namespace

// The host reads geometry, colour and content_sizes, and tells the kernels by value. `parallel` concerns the CPU.
Tensor normalize(const std::vector<Tensor>& images, const Tensor& geometry, const Tensor& colour,
                 const Tensor& content_sizes, int64_t height, int64_t width, const std::vector<double>& mean,
                 const std::vector<double>& std, ScalarType type, bool) {
    STD_TORCH_CHECK(geometry.is_cpu() && colour.is_cpu() && content_sizes.is_cpu(),
                    "warp_normalize needs geometry, colour and content_sizes on the CPU");
    const OnDevice device(images[0]);
    std::vector<Tensor> pixels;
    for (const Tensor& image : images) {
        STD_TORCH_CHECK(image.is_cuda() && image.get_device_index() == images[0].get_device_index(),
                        "warp_normalize needs images on one device");
        pixels.push_back(torch::stable::contiguous(image));
    }
    Tensor out = new_tensor_on(images[0], {static_cast<int64_t>(images.size()), height, width, 3}, type);
    if (height == 0 || width == 0) return out;
    const Tensor contents = as<int64_t>(content_sizes);
    const Work work = work_of(pixels, as<double>(geometry), as<float>(colour), contents);
    const Tensor words = new_tensor_on(images[0], {std::max<int64_t>(work.table_words, 1)}, ScalarType::Int);
    auto* tables = mutable_data<int32_t>(words);
    dispatch_float(type, [&]<class T>(T) {
        const auto output = output_of<T>(out, mean, std);
        resize_in_tiles<false>(work.tiles, output, tables, device.stream());
        resize_in_tiles<true>(work.recoloured_tiles, output, tables, device.stream());
        resize_by_pixels(work.pixels, output, tables, device.stream());
        supersample_in_tiles(work.samples, output, device.stream());
    });
    return out;
}

}  // namespace detcore::warp

STABLE_TORCH_LIBRARY_IMPL(detcore, CUDA, m) {
    m.impl("warp_normalize", TORCH_BOX(&detcore::warp::normalize));
}
