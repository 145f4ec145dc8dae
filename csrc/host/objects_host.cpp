// The objects of one image on their way into a batch: out of a split's columns, and moved and cut off with its pixels.
//
// Both take a few microseconds, less than other threads would need to take over the GIL, and keep it.
#include <algorithm>
#include <cmath>
#include <string>

#include "host/arrays.h"
#include "host/rings.h"

namespace detcore::host {
namespace {

constexpr double beyond = 1e-6;  // an object that reaches so far over an edge, in pixels, is cut off; less is rounding

struct Objects {
    std::vector<double> boxes;  // x0, y0, x1, y1
    std::vector<int64_t> labels;
    std::vector<double> vertices;  // x0, y0, x1, y1, ... of one ring after the other
    std::vector<int64_t> counts, owners;

    py::tuple arrays() const {
        py::array_t<double> rows({static_cast<py::ssize_t>(labels.size()), py::ssize_t{4}});
        std::copy(boxes.begin(), boxes.end(), rows.mutable_data());
        return py::make_tuple(rows, array_of(labels), points_of(vertices), array_of(counts), array_of(owners));
    }
};

// `starts` (n + 1): of the objects' rings among all, and of the rings' numbers, counted from where `values` begins.
template <class T>
py::tuple targets(const Array<double>& boxes_xywh, const Array<int32_t>& labels, const Array<bool>& crowd,
                  const Array<int64_t>& object_starts, const Array<int64_t>& ring_starts, const Array<T>& values,
                  double steps_per_pixel, double height, double width) {
    const py::ssize_t number = labels.size();
    if (boxes_xywh.size() != 4 * number || crowd.size() != number || object_starts.size() != number + 1)
        throw py::value_error("targets: columns of different lengths");
    const int64_t *of_object = object_starts.data(), *of_ring = ring_starts.data();
    const int64_t first = of_object[0], origin = ring_starts.size() ? of_ring[0] : 0;
    if (of_object[number] - first + 1 != ring_starts.size() ||
        of_ring[ring_starts.size() - 1] - origin != values.size())
        throw py::value_error("targets: rings do not fit their objects");
    Objects found;
    for (py::ssize_t i = 0; i < number; ++i) {
        if (crowd.data()[i]) continue;
        const double* box = boxes_xywh.data() + 4 * i;
        const auto owner = static_cast<int64_t>(found.labels.size());
        found.labels.push_back(labels.data()[i]);
        for (int end = 0; end < 2; ++end)
            for (int axis = 0; axis < 2; ++axis)
                found.boxes.push_back(
                    std::clamp(end ? box[axis + 2] + box[axis] : box[axis], 0.0, axis ? height : width));
        for (int64_t ring = of_object[i] - first; ring < of_object[i + 1] - first; ++ring) {
            const int64_t from = of_ring[ring] - origin, to = of_ring[ring + 1] - origin;
            if (to - from < 6) continue;  // encloses nothing
            for (int64_t k = from; k < to; ++k) {
                const double value = static_cast<double>(values.data()[k]) / steps_per_pixel;
                if (!std::isfinite(value))
                    throw py::value_error("object " + std::to_string(i) + ": a ring is not finite");
                found.vertices.push_back(value);
            }
            found.counts.push_back((to - from) / 2);
            found.owners.push_back(owner);
        }
    }
    return found.arrays();
}

struct Extent {
    double low[2] = {INFINITY, INFINITY}, high[2] = {-INFINITY, -INFINITY};

    void add(const double* points, int64_t number) {
        for (int64_t k = 0; k < number; ++k)
            for (int axis = 0; axis < 2; ++axis) {
                low[axis] = std::min(low[axis], points[2 * k + axis]);
                high[axis] = std::max(high[axis], points[2 * k + axis]);
            }
    }
    bool empty() const { return low[0] > high[0]; }
};

// Points through an affine matrix (3, 3).
void move(const double* points, int64_t number, const double* geometry, std::vector<double>& to) {
    for (int64_t k = 0; k < number; ++k) {
        const double x = points[2 * k], y = points[2 * k + 1];
        to.push_back(x * geometry[0] + y * geometry[1] + geometry[2]);
        to.push_back(x * geometry[3] + y * geometry[4] + geometry[5]);
    }
}

py::tuple place_objects(const Array<double>& boxes, const Array<int64_t>& labels, const Array<double>& vertices,
                        const Array<int64_t>& counts, const Array<int64_t>& owners, const Array<double>& geometry,
                        double height, double width, double min_size, double min_visible) {
    const int64_t number = labels.size(), rings = counts.size();
    if (boxes.size() != 4 * number || owners.size() != rings || geometry.size() != 9)
        throw py::value_error("place_objects: arrays of different lengths");
    int64_t points = 0;
    for (int64_t r = 0; r < rings; ++r) points += counts.data()[r];
    if (2 * points != vertices.size()) throw py::value_error("place_objects: counts do not fit the vertices");

    std::vector<double> moved, ring, spare, corners;
    moved.reserve(2 * points);
    move(vertices.data(), points, geometry.data(), moved);
    const bool upright = geometry.data()[1] == 0 && geometry.data()[3] == 0;
    const double edge[2] = {width, height}, frame[4] = {0, 0, width, height};
    Objects kept;
    int64_t r = 0, at = 0;  // the first ring of the object, and its first point
    for (int64_t i = 0; i < number; ++i) {
        int64_t own = 0, own_points = 0;
        while (r + own < rings && owners.data()[r + own] == i) own_points += counts.data()[r + own++];

        // Under rotation or shear, the extent of the outline; without one, of the box's corners.
        Extent whole;
        const double* box = boxes.data() + 4 * i;
        if (!upright && own_points) {
            whole.add(&moved[2 * at], own_points);
        } else {
            const double all[8] = {box[0], box[1], box[2], box[3], box[2], box[1], box[0], box[3]};
            corners.clear();
            move(all, upright ? 2 : 4, geometry.data(), corners);
            whole.add(corners.data(), upright ? 2 : 4);
        }
        bool leaving = false;
        Extent left = whole;
        for (int axis = 0; axis < 2; ++axis) {
            leaving = leaving || whole.low[axis] < -beyond || whole.high[axis] > edge[axis] + beyond;
            left.low[axis] = std::min(std::max(whole.low[axis], 0.0), edge[axis]);
            left.high[axis] = std::min(std::max(whole.high[axis], 0.0), edge[axis]);
        }
        if (leaving && own) {  // what of the outline is inside
            Extent inside;
            for (int64_t k = 0, from = at; k < own; from += counts.data()[r + k++]) {
                ring.assign(moved.begin() + 2 * from, moved.begin() + 2 * (from + counts.data()[r + k]));
                clip_ring(ring, spare, frame);
                inside.add(ring.data(), static_cast<int64_t>(ring.size() / 2));
            }
            left = inside.empty() ? Extent{{0, 0}, {0, 0}} : inside;
        }
        const double sides[2] = {left.high[0] - left.low[0], left.high[1] - left.low[1]};
        const double area = (whole.high[0] - whole.low[0]) * (whole.high[1] - whole.low[1]);
        if (sides[0] > min_size && sides[1] > min_size && sides[0] * sides[1] >= min_visible * area) {
            const auto owner = static_cast<int64_t>(kept.labels.size());
            kept.boxes.insert(kept.boxes.end(), {left.low[0], left.low[1], left.high[0], left.high[1]});
            kept.labels.push_back(labels.data()[i]);
            kept.vertices.insert(kept.vertices.end(), moved.begin() + 2 * at, moved.begin() + 2 * (at + own_points));
            kept.counts.insert(kept.counts.end(), counts.data() + r, counts.data() + r + own);
            kept.owners.insert(kept.owners.end(), own, owner);
        }
        r += own;
        at += own_points;
    }
    return kept.arrays();
}

}  // namespace

void bind_objects(py::module_& module) {
    constexpr const char* about = "The objects of an image that are no crowds: boxes xyxy, labels, and their rings.";
    const auto bind = [&](auto function) {
        module.def("targets", function, py::arg("boxes_xywh"), py::arg("labels"), py::arg("crowd"),
                   py::arg("object_starts"), py::arg("ring_starts"), py::arg("values").noconvert(),
                   py::arg("steps_per_pixel"), py::arg("height"), py::arg("width"), about);
    };
    bind(&targets<int32_t>);
    bind(&targets<double>);
    module.def(
        "place_objects", &place_objects, py::arg("boxes"), py::arg("labels"), py::arg("vertices"), py::arg("counts"),
        py::arg("owners"), py::arg("geometry"), py::arg("height"), py::arg("width"), py::arg("min_size"),
        py::arg("min_visible"),
        "Objects moved by an affine matrix and cut off at the edges of their image; those of which enough is left.");
}

}  // namespace detcore::host
