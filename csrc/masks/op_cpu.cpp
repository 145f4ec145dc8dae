#include "masks/op.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "common/parallel.h"
#include "common/tensor.h"

namespace detcore::masks {
namespace {

// The sides that a mask's pixels lie on: words of 64 rows of a column, a word of every column after the other.
class Columns {
  public:
    explicit Columns(int size)
        : size_(size),
          words_((size + 63) / 64),
          stride_((size + kAtOnce - 1) / kAtOnce * kAtOnce),
          toggles_(stride_ * words_),
          inside_(stride_ * words_) {}

    void clear() { std::fill(inside_.begin(), inside_.end(), 0); }

    // Adds what an outline encloses.
    void add_ring(const std::vector<FinePoint>& points) {
        std::fill(toggles_.begin(), toggles_.end(), 0);
        FinePoint last = points.back();
        for (const FinePoint next : points) {
            cross_columns(last, next, size_, [this](int column, int row) {
                // The row below the last is the first of the next column: that is how pycocotools counts pixels.
                if (row == size_) ++column, row = 0;
                if (column < size_) toggles_[row / 64 * stride_ + column] ^= uint64_t{1} << (row % 64);
            });
            last = next;
        }
        // Each pixel's side against that of its word's first pixel, for all columns alike; then the words in their order.
        for (uint64_t& sides : toggles_)
            for (int shift = 1; shift < 64; shift *= 2) sides ^= sides << shift;
        uint64_t inside = 0;  // all bits alike: the side that the pixel before lies on
        for (int column = 0; column < size_; ++column) {
            for (int word = 0; word < words_; ++word) {
                const int64_t at = word * stride_ + column;
                const uint64_t sides = toggles_[at] ^ inside;
                inside_[at] |= sides;
                inside = uint64_t{0} - (sides >> (std::min(64, size_ - 64 * word) - 1) & 1);
            }
        }
    }

    // Row by row.
    void write(bool* out) const {
        for (int row = 0; row < size_; ++row, out += size_) {
            const uint64_t* words = &inside_[row / 64 * stride_];
            const int bit = row % 64;
            for (int first = 0; first < size_; first += kAtOnce) {
                uint8_t pixels[kAtOnce];
                for (int i = 0; i < kAtOnce; ++i) pixels[i] = static_cast<uint8_t>(words[first + i] >> bit & 1);
                if (first + kAtOnce <= size_) {
                    std::memcpy(out + first, pixels, kAtOnce);
                } else {
                    std::copy_n(pixels, size_ - first, out + first);
                }
            }
        }
    }

  private:
    static constexpr int kAtOnce = 8;

    int size_, words_;
    int64_t stride_;  // columns, and some more that fill the last few that are written at once
    std::vector<uint64_t> toggles_, inside_;
};

// The ring on the mask's own grid; empty if a vertex is not finite. Three plain loops, each of which the compiler does
// for several vertices at once.
void place(const double* ring, int64_t count, const double* box, int size, std::vector<double>& moved,
           std::vector<FinePoint>& points) {
    const double scale_x = scale_of(box[0], box[2], size), scale_y = scale_of(box[1], box[3], size);
    const double left = box[0], top = box[1];
    moved.resize(2 * count);
    points.resize(count);
    double* numbers = moved.data();
    FinePoint* to = points.data();
    int64_t odd = 0;
    for (int64_t i = 0; i < 2 * count; ++i) odd += ring[i] - ring[i] == 0 ? 0 : 1;
    for (int64_t i = 0; i < count; ++i) {
        numbers[2 * i] = (ring[2 * i] - left) * scale_x;
        numbers[2 * i + 1] = (ring[2 * i + 1] - top) * scale_y;
    }
    for (int64_t i = 0; i < count; ++i) to[i] = fine_point(numbers[2 * i], numbers[2 * i + 1]);
    if (odd) points.clear();
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
        std::vector<double> moved;
        std::vector<FinePoint> placed;
        for (int64_t k = begin; k < end; ++k) {
            const int64_t image = k / num_boxes, first = image * num_rings;
            columns.clear();
            const int64_t rings = wanted[k] < 0 || !drawable(box + 4 * k) ? 0 : num_rings;
            for (int64_t r = first; r < first + rings; ++r) {
                if (owners[r] != wanted[k] || !usable(starts[r], counts[r], num_vertices)) continue;
                place(points + 2 * (image * num_vertices + starts[r]), counts[r], box + 4 * k, static_cast<int>(size),
                      moved, placed);
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
