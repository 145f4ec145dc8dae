#include "warp/op.h"

#include <cstring>
#include <vector>

#include "common/parallel.h"
#include "common/tensor.h"
#include "warp/affine.h"
#include "warp/finish.h"
#include "warp/resize.h"

namespace detcore::warp {
namespace {

// One image into its row of the batch, (size.height, size.width, 3), all of which is written.
template <class T>
void warp_one(const uint8_t* image, Size raw, const double* matrix, Size content, const Finish& finish, Size size,
              T* out, Scratch& scratch) {
    const int64_t row_length = 3 * size.width;
    const auto zero = [&](int64_t line, int64_t begin, int64_t end) {
        std::memset(out + line * row_length + 3 * begin, 0, 3 * (end - begin) * sizeof(T));
    };
    const Plan plan = plan_of(raw, matrix, content);
    if (plan.kind == Plan::Kind::kNothing) {
        std::memset(out, 0, size.height * row_length * sizeof(T));
        return;
    }
    const Axis &x = plan.x, &y = plan.y;
    for (int64_t line = 0; line < size.height; ++line) {
        const bool drawn = line >= y.begin && line < y.end;
        zero(line, 0, drawn ? x.begin : size.width);
        if (drawn) zero(line, x.end, size.width);
    }
    if (plan.kind == Plan::Kind::kResize) {
        resize(image, x, y, finish, size.width, out, scratch);
    } else {
        supersample(image, raw, plan.inverse, content, finish, size.width, out, scratch);
    }
}

}  // namespace

// out: (images, height, width, 3), row-major.
void normalize_into(const Tensor& out, const std::vector<Tensor>& images, const Tensor& geometry, const Tensor& colour,
                    const Tensor& content_sizes, const std::vector<double>& mean, const std::vector<double>& std,
                    bool parallel) {
    const auto batch = static_cast<int64_t>(images.size());
    const int64_t height = out.size(1), width = out.size(2);
    const Tensor matrices = as<double>(geometry), colours = as<float>(colour), contents = as<int64_t>(content_sizes);
    std::vector<Tensor> pixels;
    for (const Tensor& image : images) pixels.push_back(torch::stable::contiguous(image));
    dispatch_float(out.scalar_type(), [&]<class T>(T) {
        const auto one = [&](int64_t i) {
            thread_local Scratch scratch;
            const int64_t* content = data<int64_t>(contents) + 2 * i;
            const Finish finish(data<float>(colours) + 12 * i, mean.data(), std.data());
            warp_one(data<uint8_t>(pixels[i]), {pixels[i].size(0), pixels[i].size(1)}, data<double>(matrices) + 9 * i,
                     {content[0], content[1]}, finish, {height, width}, mutable_data<T>(out) + i * height * width * 3,
                     scratch);
        };
        if (parallel) {
            parallel_tasks(batch, one);
        } else {
            for (int64_t i = 0; i < batch; ++i) one(i);
        }
    });
}

Tensor normalize(const std::vector<Tensor>& images, const Tensor& geometry, const Tensor& colour,
                 const Tensor& content_sizes, int64_t height, int64_t width, const std::vector<double>& mean,
                 const std::vector<double>& std, ScalarType type, bool parallel) {
    Tensor out = new_tensor({static_cast<int64_t>(images.size()), height, width, 3}, type);
    normalize_into(out, images, geometry, colour, content_sizes, mean, std, parallel);
    return out;
}

}  // namespace detcore::warp

STABLE_TORCH_LIBRARY_IMPL(detcore, CPU, m) {
    m.impl("warp_normalize", TORCH_BOX(&detcore::warp::normalize));
    m.impl("warp_normalize_into", TORCH_BOX(&detcore::warp::normalize_into));
}
