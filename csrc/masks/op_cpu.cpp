#include "masks/op.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "common/parallel.h"
#include "common/tensor.h"

namespace detcore::masks {
namespace {

bool drawable(const double* box) {
    return std::isfinite(box[0]) && std::isfinite(box[1]) && std::isfinite(box[2]) && std::isfinite(box[3]) &&
           box[2] > box[0] && box[3] > box[1];
}

// The sides that a mask's pixels lie on, a column after the other, in words of 64 rows.
class Columns {
  public:
    explicit Columns(int size)
        : size_(size), words_((size + 63) / 64), toggles_(size * words_), inside_(size * words_) {}

    void clear() { std::fill(inside_.begin(), inside_.end(), 0); }

    // Adds what an outline of FinePoints encloses.
    template <class F>
    void add_ring(const F& point, int64_t count) {
        std::fill(toggles_.begin(), toggles_.end(), 0);
        FinePoint last = point(count - 1);
        for (int64_t i = 0; i < count; ++i) {
            const FinePoint next = point(i);
            cross_columns(last, next, size_, [this](int column, int row) {
                // The row below the last is the first of the next column: that is how pycocotools counts pixels.
                if (row == size_) ++column, row = 0;
                if (column < size_) toggles_[column * words_ + row / 64] ^= uint64_t{1} << (row % 64);
            });
            last = next;
        }
        uint64_t inside = 0;  // all bits alike: the side that the pixel before lies on
        for (int column = 0; column < size_; ++column) {
            for (int word = 0; word < words_; ++word) {
                uint64_t sides = toggles_[column * words_ + word];
                for (int shift = 1; shift < 64; shift *= 2) sides ^= sides << shift;
                sides ^= inside;
                inside_[column * words_ + word] |= sides;
                const int rows = std::min(64, size_ - 64 * word);
                inside = uint64_t{0} - (sides >> (rows - 1) & 1);
            }
        }
    }

    // Row by row.
    void write(bool* out) const {
        for (int row = 0; row < size_; ++row)
            for (int column = 0; column < size_; ++column)
                *out++ = inside_[column * words_ + row / 64] >> (row % 64) & 1;
    }

  private:
    int size_, words_;
    std::vector<uint64_t> toggles_, inside_;
};

void add_ring(const double* ring, int64_t count, const double* box, int size, Columns& columns) {
    for (int64_t i = 0; i < 2 * count; ++i)
        if (!std::isfinite(ring[i])) return;
    const double scale_x = size / std::max(box[2] - box[0], kSmallestSide);
    const double scale_y = size / std::max(box[3] - box[1], kSmallestSide);
    const auto point = [&](int64_t i) {
        return fine_point((ring[2 * i] - box[0]) * scale_x, (ring[2 * i + 1] - box[1]) * scale_y);
    };
    columns.add_ring(point, count);
}

}  // namespace

Tensor polygon_roi_masks(const Tensor& vertices, const Tensor& starts, const Tensor& counts, const Tensor& ring_objects,
                         const Tensor& boxes, const Tensor& objects, int64_t size) {
    const int64_t batch = boxes.size(0), num_boxes = boxes.size(1), num_rings = starts.size(1);
    const int64_t num_vertices = vertices.size(1);
    const Tensor own_vertices = as<double>(vertices), own_boxes = as<double>(boxes), own_starts = as<int64_t>(starts);
    const Tensor own_counts = as<int64_t>(counts), owners = as<int64_t>(ring_objects),
                 own_objects = as<int64_t>(objects);
    Tensor out = new_tensor({batch, num_boxes, size, size}, ScalarType::Bool);
    torch::stable::parallel_for(0, batch * num_boxes, 128, [&](int64_t begin, int64_t end) {
        Columns columns(static_cast<int>(size));
        for (int64_t k = begin; k < end; ++k) {
            const int64_t image = k / num_boxes, object = data<int64_t>(own_objects)[k];
            bool* mask = mutable_data<bool>(out) + k * size * size;
            columns.clear();
            const double* box = data<double>(own_boxes) + 4 * k;
            const int64_t end_ring = object < 0 || !drawable(box) ? image * num_rings : (image + 1) * num_rings;
            for (int64_t r = image * num_rings; r < end_ring; ++r) {
                const int64_t start = data<int64_t>(own_starts)[r], count = data<int64_t>(own_counts)[r];
                if (data<int64_t>(owners)[r] != object || count < 3 || start < 0 || start + count > num_vertices)
                    continue;
                add_ring(data<double>(own_vertices) + 2 * (image * num_vertices + start), count, box,
                         static_cast<int>(size), columns);
            }
            columns.write(mask);
        }
    });
    return out;
}

namespace {

// The two mask pixels that an image pixel's centre lies between, and the share of the second.
template <class A>
struct Between {
    int first;
    A share;
};

template <class A>
std::vector<Between<A>> between(A low, A high, int64_t begin, int64_t end, int64_t size) {
    std::vector<Between<A>> out;
    for (int64_t i = begin; i < end; ++i) {
        const A place =
            ((static_cast<A>(i) + A(0.5) - low) / (high - low) * 2 - 1 + 1) * (static_cast<A>(size) / 2) - A(0.5);
        const A below = std::floor(place);
        out.push_back({static_cast<int>(std::clamp(below, A(-2), static_cast<A>(size))), place - below});
    }
    return out;
}

template <class A>
void paste_one(const A* mask, int64_t size, const A* box, int64_t height, int64_t width, A threshold, bool* out) {
    std::memset(out, 0, height * width);
    for (int k = 0; k < 4; ++k)
        if (!std::isfinite(box[k])) return;
    if (!(box[2] > box[0] && box[3] > box[1])) return;
    const auto range = [size](A low, A high, int64_t limit, int64_t& begin, int64_t& end) {
        // A mask reaches half a mask pixel beyond its box.
        const A margin = (high - low) / static_cast<A>(2 * size) + 1;
        begin = static_cast<int64_t>(std::clamp(std::floor(low - margin), A(0), static_cast<A>(limit)));
        end = static_cast<int64_t>(std::clamp(std::ceil(high + margin), A(0), static_cast<A>(limit)));
    };
    int64_t x0, x1, y0, y1;
    range(box[0], box[2], width, x0, x1);
    range(box[1], box[3], height, y0, y1);
    if (x0 >= x1 || y0 >= y1) return;
    const auto columns = between(box[0], box[2], x0, x1, size), rows = between(box[1], box[3], y0, y1, size);
    // A border of zeros, two wide, spares the question whether a neighbour exists.
    const int64_t stride = size + 4;
    std::vector<A> padded(stride * stride, A(0));
    for (int64_t i = 0; i < size; ++i) std::copy_n(mask + i * size, size, &padded[(i + 2) * stride + 2]);
    for (int64_t y = y0; y < y1; ++y) {
        const Between<A> row = rows[y - y0];
        const A* top = &padded[(row.first + 2) * stride + 2];
        const A *bottom = top + stride, below = row.share, above = 1 - below;
        bool* to = out + y * width;
        for (int64_t x = x0; x < x1; ++x) {
            const Between<A> column = columns[x - x0];
            const A right = column.share, left = 1 - right;
            const A *upper = top + column.first, *lower = bottom + column.first;
            const A value = upper[0] * (above * left) + upper[1] * (above * right) + lower[0] * (below * left) +
                            lower[1] * (below * right);
            to[x] = value >= threshold;
        }
    }
}

}  // namespace

Tensor paste_masks(const Tensor& masks, const Tensor& boxes, int64_t height, int64_t width, double threshold) {
    const int64_t count = masks.size(0), size = masks.size(1);
    Tensor out = new_tensor({count, height, width}, ScalarType::Bool);
    const auto paste = [&]<class A>(A) {
        const Tensor own_masks = as<A>(masks), own_boxes = as<A>(boxes);
        parallel_tasks(count, [&](int64_t k) {
            paste_one(data<A>(own_masks) + k * size * size, size, data<A>(own_boxes) + 4 * k, height, width,
                      static_cast<A>(threshold), mutable_data<bool>(out) + k * height * width);
        });
    };
    if (masks.scalar_type() == ScalarType::Double) {
        paste(double{});
    } else {
        paste(float{});
    }
    return out;
}

}  // namespace detcore::masks

STABLE_TORCH_LIBRARY_IMPL(detcore, CPU, m) {
    m.impl("polygon_roi_masks", TORCH_BOX(&detcore::masks::polygon_roi_masks));
    m.impl("paste_masks", TORCH_BOX(&detcore::masks::paste_masks));
}
