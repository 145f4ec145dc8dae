#include "masks/op.h"

#include <cmath>
#include <vector>

#include "common/parallel.h"
#include "common/tensor.h"

namespace detcore::masks {
namespace {

// The sides that a mask's pixels lie on, a column after the other, in words of 64 rows.
class Columns {
  public:
    explicit Columns(int size)
        : size_(size), words_((size + 63) / 64), toggles_(int64_t{size} * words_), inside_(int64_t{size} * words_) {}

    void clear() { std::fill(inside_.begin(), inside_.end(), 0); }

    // Adds what an outline encloses.
    void add_ring(const std::vector<FinePoint>& points) {
        std::fill(toggles_.begin(), toggles_.end(), 0);
        FinePoint last = points.back();
        for (const FinePoint next : points) {
            cross_columns(last, next, size_, [this](int column, int row) {
                // The row below the last is the first of the next column: that is how pycocotools counts pixels.
                if (row == size_) ++column, row = 0;
                if (column < size_) toggles_[int64_t{column} * words_ + row / 64] ^= uint64_t{1} << (row % 64);
            });
            last = next;
        }
        uint64_t inside = 0;  // all bits alike: the side that the pixel before lies on
        for (int column = 0; column < size_; ++column) {
            for (int word = 0; word < words_; ++word) {
                uint64_t sides = toggles_[int64_t{column} * words_ + word];
                for (int shift = 1; shift < 64; shift *= 2) sides ^= sides << shift;
                sides ^= inside;
                inside_[int64_t{column} * words_ + word] |= sides;
                const int rows = std::min(64, size_ - 64 * word);
                inside = uint64_t{0} - (sides >> (rows - 1) & 1);
            }
        }
    }

    // Row by row.
    void write(bool* out) const {
        for (int row = 0; row < size_; ++row) {
            const uint64_t* word = &inside_[row / 64];
            for (int column = 0; column < size_; ++column) *out++ = word[int64_t{column} * words_] >> (row % 64) & 1;
        }
    }

  private:
    int size_, words_;
    std::vector<uint64_t> toggles_, inside_;
};

// The ring on the mask's own grid; empty if a vertex is not finite.
void place(const double* ring, int64_t count, const double* box, int size, std::vector<FinePoint>& points) {
    points.clear();
    const double scale_x = scale_of(box[0], box[2], size), scale_y = scale_of(box[1], box[3], size);
    for (int64_t i = 0; i < count; ++i) {
        const double x = ring[2 * i], y = ring[2 * i + 1];
        if (!std::isfinite(x) || !std::isfinite(y)) return points.clear();
        points.push_back(fine_point((x - box[0]) * scale_x, (y - box[1]) * scale_y));
    }
}

}  // namespace

Tensor polygon_roi_masks(const Tensor& vertices, const Tensor& ring_starts, const Tensor& ring_counts,
                         const Tensor& ring_objects, const Tensor& boxes, const Tensor& objects, int64_t size) {
    const int64_t batch = boxes.size(0), num_boxes = boxes.size(1), num_rings = ring_starts.size(1);
    const int64_t num_vertices = vertices.size(1);
    const Tensor own[] = {as<double>(vertices),     as<double>(boxes),         as<int64_t>(ring_starts),
                          as<int64_t>(ring_counts), as<int64_t>(ring_objects), as<int64_t>(objects)};
    const double *points = data<double>(own[0]), *box = data<double>(own[1]);
    const int64_t *starts = data<int64_t>(own[2]), *counts = data<int64_t>(own[3]);
    const int64_t *owners = data<int64_t>(own[4]), *wanted = data<int64_t>(own[5]);
    Tensor out = new_tensor({batch, num_boxes, size, size}, ScalarType::Bool);
    bool* masks = mutable_data<bool>(out);
    torch::stable::parallel_for(0, batch * num_boxes, 32, [&](int64_t begin, int64_t end) {
        Columns columns(static_cast<int>(size));
        std::vector<FinePoint> placed;
        for (int64_t k = begin; k < end; ++k) {
            const int64_t image = k / num_boxes, first = image * num_rings;
            columns.clear();
            const int64_t rings = wanted[k] < 0 || !drawable(box + 4 * k) ? 0 : num_rings;
            for (int64_t r = first; r < first + rings; ++r) {
                if (owners[r] != wanted[k] || !usable(starts[r], counts[r], num_vertices)) continue;
                place(points + 2 * (image * num_vertices + starts[r]), counts[r], box + 4 * k, static_cast<int>(size),
                      placed);
                if (!placed.empty()) columns.add_ring(placed);
            }
            columns.write(masks + k * size * size);
        }
    });
    return out;
}

}  // namespace detcore::masks

STABLE_TORCH_LIBRARY_IMPL(detcore, CPU, m) {
    m.impl("polygon_roi_masks", TORCH_BOX(&detcore::masks::polygon_roi_masks));
}
