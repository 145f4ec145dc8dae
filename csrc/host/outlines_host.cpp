// The outer contours of a mask, along pixel edges, each with the mask on its right hand.
#include "host/arrays.h"

namespace detcore::host {
namespace {

// The four directions, clockwise on the screen: right, down, left, up.
constexpr int kRight[] = {1, 0, -1, 0};
constexpr int kDown[] = {0, 1, 0, -1};

class Tracer {
  public:
    Tracer(const bool* mask, int64_t height, int64_t width)
        : mask_(mask), height_(height), width_(width), seen_(height * width) {}

    // Rings as x0, y0, x1, y1, ... A ring begins at its uppermost, leftmost side along the top of a pixel.
    std::vector<std::vector<int64_t>> rings() {
        std::vector<std::vector<int64_t>> out;
        for (int64_t y = 0; y < height_; ++y) {
            for (int64_t x = 0; x < width_; ++x) {
                if (!inside(x, y) || inside(x, y - 1) || seen_[y * width_ + x]) continue;
                std::vector<int64_t> ring = follow(x, y);
                if (!ring.empty()) out.push_back(std::move(ring));
            }
        }
        return out;
    }

  private:
    bool inside(int64_t x, int64_t y) const {
        return x >= 0 && x < width_ && y >= 0 && y < height_ && mask_[y * width_ + x];
    }

    // Whether a side leads from the corner (x, y) in a direction: mask on its right hand, none on its left.
    bool leads(int64_t x, int64_t y, int direction) const {
        switch (direction) {
            case 0:
                return inside(x, y) && !inside(x, y - 1);
            case 1:
                return inside(x - 1, y) && !inside(x, y);
            case 2:
                return inside(x - 1, y - 1) && !inside(x - 1, y);
            default:
                return inside(x, y - 1) && !inside(x - 1, y - 1);
        }
    }

    // The ring from the top of pixel (x, y) on; empty if it runs around a hole, which is the other way round.
    std::vector<int64_t> follow(int64_t x, int64_t y) {
        std::vector<int64_t> ring;
        const int64_t first_x = x, first_y = y;
        int64_t area = 0;
        int direction = 0;
        do {
            if (direction == 0) seen_[y * width_ + x] = true;
            area += kDown[direction] * x - kRight[direction] * y;
            x += kRight[direction];
            y += kDown[direction];
            // Where two regions touch by a corner, a turn to the right keeps to the same region.
            int next = (direction + 1) % 4;
            if (!leads(x, y, next)) next = leads(x, y, direction) ? direction : (direction + 3) % 4;
            if (next != direction) ring.insert(ring.end(), {x, y});
            direction = next;
        } while (x != first_x || y != first_y || direction != 0);
        if (area <= 0) ring.clear();
        return ring;
    }

    const bool* mask_;
    int64_t height_, width_;
    std::vector<bool> seen_;  // the tops of pixels that a ring went along
};

py::list trace_outline(const Array<bool>& mask) {
    if (mask.ndim() != 2) throw py::value_error("trace_outline: the mask must be (height, width)");
    std::vector<std::vector<int64_t>> rings;
    {
        const py::gil_scoped_release release;
        rings = Tracer(mask.data(), mask.shape(0), mask.shape(1)).rings();
    }
    py::list out;
    for (const auto& ring : rings) out.append(points_of(ring));
    return out;
}

}  // namespace

void bind_outlines(py::module_& module) {
    module.def("trace_outline", &trace_outline, py::arg("mask"), "The outer contours of a (height, width) mask.");
}

}  // namespace detcore::host
