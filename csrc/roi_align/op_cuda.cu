// Upright and turned RoIs go through the same kernels. Features and gradients lie with the channels last, so that a tap
// is one run of memory; others are brought into that order first, and results out of it at the end.
#include <limits>
#include <optional>
#include <vector>

#include "roi_align/pool_cuda.h"
#include "roi_align/unpool_cuda.h"

namespace detcore::roi_align {
namespace {

// What a call has besides its features: RoIs, maps and how to sample them.
struct Request {
    Tensor rois;
    std::optional<Tensor> valid;
    std::vector<double> scales;
    std::vector<int64_t> heights, widths;
    int64_t batch, channels, out_height, out_width, sampling_ratio;
    bool turned, aligned;
    double canonical_size;
    int64_t canonical_level;
    bool channels_last;

    int64_t num_rois() const { return rois.size(0); }
    int64_t num_maps() const { return batch * static_cast<int64_t>(heights.size()); }

    void check() const {
        constexpr int64_t most = std::numeric_limits<int32_t>::max();
        STD_TORCH_CHECK(heights.size() <= kMaxLevels, "roi_align: at most 16 levels");
        STD_TORCH_CHECK(num_rois() < most / 2 && num_maps() < most && channels < (1 << 21),
                        "roi_align: too many RoIs, maps or channels");
        STD_TORCH_CHECK(std::max(out_height, out_width) * std::max<int64_t>(sampling_ratio, 1) < (1 << 24),
                        "roi_align: too many samples");
        for (size_t i = 0; i < heights.size(); ++i)
            STD_TORCH_CHECK(heights[i] * widths[i] < most &&
                                num_maps() * (heights[i] + kTile) * (widths[i] + kTile) / (kTile * kTile) < most,
                            "roi_align: a level of ", heights[i], "x", widths[i], " is too large");
    }

    template <class A>
    Pyramid<A> pyramid() const {
        Pyramid<A> out{};
        out.num_levels = static_cast<int>(heights.size());
        out.batch = static_cast<int>(batch);
        for (size_t i = 0; i < heights.size(); ++i)
            out.levels[i] = {static_cast<int>(heights[i]), static_cast<int>(widths[i]), A(scales[i])};
        return out;
    }
};

// The RoIs' grids and their order, which later kernels read.
template <class A>
struct Plan {
    Tensor memory, order, first;

    Plan(const Request& request, const Pyramid<A>& pyramid, const OnDevice& device)
        : memory(bytes(request, request.num_rois() * static_cast<int64_t>(sizeof(Grid<A>)))),
          order(new_tensor_on(request.rois, {request.num_rois()}, ScalarType::Int)),
          first(new_tensor_on(request.rois, {request.num_maps() + 2}, ScalarType::Int)) {
        const auto count = static_cast<int>(request.num_rois());
        const Tensor maps = new_tensor_on(request.rois, {count}, ScalarType::Int);
        if (count) {
            const Tensor rois = as<A>(request.rois);
            std::optional<Tensor> valid;
            if (request.valid) valid = as<bool>(*request.valid);
            const Parameters<A> p{static_cast<int>(request.out_height),
                                  static_cast<int>(request.out_width),
                                  static_cast<int>(request.sampling_ratio),
                                  request.aligned,
                                  A(request.canonical_size),
                                  static_cast<int>(request.canonical_level)};
            make_grids<<<blocks_for(count, 128), 128, 0, device.stream()>>>(
                data<A>(rois), valid ? data<bool>(*valid) : nullptr, count, request.turned, pyramid, p, grids(),
                mutable_data<int32_t>(maps));
            STD_CUDA_KERNEL_LAUNCH_CHECK();
        }
        const auto blocks = static_cast<unsigned>(request.num_maps() + 1);
        order_rois<<<blocks, kOrderThreads, 0, device.stream()>>>(
            data<int32_t>(maps), count, mutable_data<int32_t>(order), mutable_data<int32_t>(first));
        STD_CUDA_KERNEL_LAUNCH_CHECK();
    }

    Grid<A>* grids() const { return static_cast<Grid<A>*>(memory.mutable_data_ptr()); }

  private:
    static Tensor bytes(const Request& request, int64_t count) {
        return new_tensor_on(request.rois, {count}, ScalarType::Byte);
    }
};

// Calls f with the widest lanes that the channels and the pointers allow.
template <class T, class F>
void with_lanes(int64_t channels, const std::vector<const T*>& pointers, const F& f) {
    constexpr int count = kPackOf16Bytes<T>;
    bool wide = !std::is_same_v<T, double>;
    for (const T* pointer : pointers) wide = wide && packs(pointer, channels, count);
    if constexpr (!std::is_same_v<T, double>) {
        if (wide) return f.template operator()<count, 8 / count>();
    }
    f.template operator()<1, (std::is_same_v<T, double> ? 2 : 4)>();
}

template <class T>
void pool(const std::vector<Tensor>& features, const Request& request, const OnDevice& device, const Tensor& out) {
    using A = Accumulator<T>;
    const Pyramid<A> pyramid = request.pyramid<A>();
    const Plan<A> plan(request, pyramid, device);
    Maps<const T> maps{};
    std::vector<const T*> pointers{data<T>(out)};
    for (size_t i = 0; i < features.size(); ++i) pointers.push_back(maps.data[i] = data<T>(features[i]));
    // As few warps as leave none of them a row more than the others.
    const int64_t rounds = (request.out_height + kPoolWarps - 1) / kPoolWarps;
    const auto warps = static_cast<int>((request.out_height + rounds - 1) / rounds);
    const auto blocks = static_cast<unsigned>(request.num_rois());
    with_lanes<T>(request.channels, pointers, [&]<int kPack, int kPacks>() {
        pool_rois<T, kPack, kPacks><<<blocks, warps * kWarp, 0, device.stream()>>>(
            maps, pyramid, plan.grids(), data<int32_t>(plan.order), static_cast<int>(request.out_height),
            static_cast<int>(request.out_width), static_cast<int>(request.channels), mutable_data<T>(out));
    });
    STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <class T>
void unpool(const Tensor& grad, const Request& request, const OnDevice& device, const std::vector<Tensor>& out) {
    using A = Accumulator<T>;
    const Pyramid<A> pyramid = request.pyramid<A>();
    const Plan<A> plan(request, pyramid, device);
    Maps<T> maps{};
    std::vector<const T*> pointers{data<T>(grad)};
    int64_t tiles = 0;
    for (size_t i = 0; i < out.size(); ++i) {
        pointers.push_back(maps.data[i] = mutable_data<T>(out[i]));
        tiles += request.batch * tiles_along(pyramid.levels[i].height) * tiles_along(pyramid.levels[i].width);
    }
    if (tiles == 0) return;
    with_lanes<T>(request.channels, pointers, [&]<int kPack, int kPacks>() {
        constexpr int chunk = LaneChannels<T, kPack, kPacks>::kChunk;
        const dim3 blocks(static_cast<unsigned>(tiles), static_cast<unsigned>((request.channels + chunk - 1) / chunk));
        unpool_tiles<T, kPack, kPacks><<<blocks, kTileThreads, 0, device.stream()>>>(
            data<T>(grad), pyramid, plan.grids(), data<int32_t>(plan.order), data<int32_t>(plan.first),
            static_cast<int>(request.out_height), static_cast<int>(request.out_width),
            static_cast<int>(request.channels), maps);
    });
    STD_CUDA_KERNEL_LAUNCH_CHECK();
}

Tensor forward_any(const std::vector<Tensor>& features, const Request& request) {
    request.check();
    const Tensor& first = features[0];
    const ScalarType type = first.scalar_type();
    const OnDevice device(first);
    const std::vector<int64_t> sizes{request.num_rois(), request.channels, request.out_height, request.out_width};
    std::vector<Tensor> last;
    for (const Tensor& feature : features) {
        STD_TORCH_CHECK(feature.scalar_type() == type, "roi_align: the levels' dtypes differ");
        STD_TORCH_CHECK(feature.size(0) == request.batch && feature.size(1) == request.channels,
                        "roi_align: the levels' batch or channels differ");
        last.push_back(torch::stable::contiguous(feature, MemoryFormat::ChannelsLast));
    }
    const Tensor out = new_tensor_on(first, sizes, type, true);
    if (out.numel()) dispatch_float(type, [&]<class T>(T) { pool<T>(last, request, device, out); });
    return request.channels_last ? out : torch::stable::contiguous(out);
}

std::vector<Tensor> backward_any(const Tensor& grad, const Request& request) {
    request.check();
    const ScalarType type = grad.scalar_type();
    const OnDevice device(grad);
    const Tensor last = torch::stable::contiguous(grad, MemoryFormat::ChannelsLast);
    std::vector<Tensor> out;
    for (size_t i = 0; i < request.heights.size(); ++i)
        out.push_back(
            new_tensor_on(grad, {request.batch, request.channels, request.heights[i], request.widths[i]}, type, true));
    if (request.channels) dispatch_float(type, [&]<class T>(T) { unpool<T>(last, request, device, out); });
    if (!request.channels_last)
        for (Tensor& one : out) one = torch::stable::contiguous(one);
    return out;
}

Tensor forward(const std::vector<Tensor>& features, const Tensor& rois, const std::optional<Tensor>& valid,
               const std::vector<double>& scales, int64_t height, int64_t width, int64_t sampling_ratio, bool aligned,
               double canonical_size, int64_t canonical_level, bool channels_last) {
    std::vector<int64_t> heights, widths;
    for (const Tensor& feature : features) {
        heights.push_back(feature.size(2));
        widths.push_back(feature.size(3));
    }
    return forward_any(features,
                       {rois, valid, scales, heights, widths, features[0].size(0), features[0].size(1), height, width,
                        sampling_ratio, false, aligned, canonical_size, canonical_level, channels_last});
}

std::vector<Tensor> backward(const Tensor& grad, const Tensor& rois, const std::optional<Tensor>& valid,
                             const std::vector<double>& scales, const std::vector<int64_t>& heights,
                             const std::vector<int64_t>& widths, int64_t batch, int64_t sampling_ratio, bool aligned,
                             double canonical_size, int64_t canonical_level, bool channels_last) {
    return backward_any(grad, {rois, valid, scales, heights, widths, batch, grad.size(1), grad.size(2), grad.size(3),
                               sampling_ratio, false, aligned, canonical_size, canonical_level, channels_last});
}

Tensor forward_turned(const Tensor& features, const Tensor& rois, double scale, int64_t height, int64_t width,
                      int64_t sampling_ratio, bool channels_last) {
    return forward_any({features}, {rois,
                                    std::nullopt,
                                    {scale},
                                    {features.size(2)},
                                    {features.size(3)},
                                    features.size(0),
                                    features.size(1),
                                    height,
                                    width,
                                    sampling_ratio,
                                    true,
                                    true,
                                    1.0,
                                    0,
                                    channels_last});
}

Tensor backward_turned(const Tensor& grad, const Tensor& rois, double scale, int64_t map_height, int64_t map_width,
                       int64_t batch, int64_t sampling_ratio, bool channels_last) {
    return backward_any(grad, {rois,
                               std::nullopt,
                               {scale},
                               {map_height},
                               {map_width},
                               batch,
                               grad.size(1),
                               grad.size(2),
                               grad.size(3),
                               sampling_ratio,
                               true,
                               true,
                               1.0,
                               0,
                               channels_last})[0];
}

}  // namespace
}  // namespace detcore::roi_align

STABLE_TORCH_LIBRARY_IMPL(detcore, CUDA, m) {
    m.impl("roi_align", TORCH_BOX(&detcore::roi_align::forward));
    m.impl("roi_align_backward", TORCH_BOX(&detcore::roi_align::backward));
    m.impl("roi_align_rotated", TORCH_BOX(&detcore::roi_align::forward_turned));
    m.impl("roi_align_rotated_backward", TORCH_BOX(&detcore::roi_align::backward_turned));
}
