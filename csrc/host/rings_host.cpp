// Rings of outlines as flat arrays: out of nested lists, and clipped to rectangles.
#include <cmath>
#include <string>

#include "host/arrays.h"
#include "host/rings.h"

namespace detcore::host {
namespace {

struct Rings {
    std::vector<double> values;  // x0, y0, x1, y1, ... of one ring after the other
    std::vector<int64_t> counts, objects;

    void close(size_t first, size_t object, size_t ring) {
        const size_t number = values.size() - first;
        bool usable = number >= 6 && number % 2 == 0;
        for (size_t i = first; i < values.size(); ++i) usable = usable && std::isfinite(values[i]);
        if (!usable)
            throw py::value_error("object " + std::to_string(object) + ", ring " + std::to_string(ring) + ": " +
                                  std::to_string(number) + " numbers are not 3 or more finite points (x, y)");
        counts.push_back(static_cast<int64_t>(number / 2));
        objects.push_back(static_cast<int64_t>(object));
    }
};

// A ring is an array, or a list of numbers.
void append(const py::handle& ring, std::vector<double>& values) {
    if (PyList_CheckExact(ring.ptr())) {
        for (Py_ssize_t i = 0, end = PyList_GET_SIZE(ring.ptr()); i < end; ++i) {
            const double value = PyFloat_AsDouble(PyList_GET_ITEM(ring.ptr(), i));
            if (value == -1 && PyErr_Occurred()) throw py::error_already_set();
            values.push_back(value);
        }
        return;
    }
    const auto array = Array<double>::ensure(ring);
    if (!array) throw py::error_already_set();
    values.insert(values.end(), array.data(), array.data() + array.size());
}

// This one walks Python's lists, and keeps the GIL.
py::tuple flatten_rings(const py::sequence& objects) {
    Rings rings;
    for (size_t object = 0; object < objects.size(); ++object) {
        const auto own = py::reinterpret_borrow<py::sequence>(py::object(objects[object]));
        for (size_t ring = 0; ring < own.size(); ++ring) {
            const size_t first = rings.values.size();
            append(py::object(own[ring]), rings.values);
            rings.close(first, object, ring);
        }
    }
    return py::make_tuple(points_of(rings.values), array_of(rings.counts), array_of(rings.objects));
}

// Keeps the part of a ring on one side of a line: axis 0 for x, 1 for y; sign 1 keeps what is above the limit.
void keep_side(std::vector<double>& ring, std::vector<double>& kept, int axis, double sign, double limit) {
    kept.clear();
    const size_t number = ring.size();
    for (size_t i = 0; i < number; i += 2) {
        const double *a = &ring[i ? i - 2 : number - 2], *b = &ring[i];
        const bool a_in = sign * a[axis] >= sign * limit, b_in = sign * b[axis] >= sign * limit;
        if (a_in != b_in) {
            const double share = (limit - a[axis]) / (b[axis] - a[axis]);
            const double other = a[1 - axis] + share * (b[1 - axis] - a[1 - axis]);
            kept.insert(kept.end(), {axis ? other : limit, axis ? limit : other});
        }
        if (b_in) kept.insert(kept.end(), {b[0], b[1]});
    }
    ring.swap(kept);
}

py::tuple clip_rings(const Array<double>& vertices, const Array<int64_t>& counts, const Array<double>& rectangles) {
    const int64_t number = counts.size();
    if (rectangles.size() != 4 * number) throw py::value_error("clip_rings: every ring needs a rectangle");
    std::vector<double> values;
    std::vector<int64_t> clipped_counts;
    {
        const py::gil_scoped_release release;
        std::vector<double> ring, spare;
        const double *from = vertices.data(), *end = from + vertices.size();
        for (int64_t k = 0; k < number; ++k) {
            const int64_t count = counts.data()[k];
            if (count < 0 || count > (end - from) / 2) throw py::value_error("clip_rings: counts exceed the vertices");
            ring.assign(from, from + 2 * count);
            from += 2 * count;
            clip_ring(ring, spare, rectangles.data() + 4 * k);
            values.insert(values.end(), ring.begin(), ring.end());
            clipped_counts.push_back(static_cast<int64_t>(ring.size() / 2));
        }
    }
    return py::make_tuple(points_of(values), array_of(clipped_counts));
}

}  // namespace

void clip_ring(std::vector<double>& ring, std::vector<double>& spare, const double* rectangle) {
    for (int side = 0; side < 4; ++side) keep_side(ring, spare, side % 2, side < 2 ? 1 : -1, rectangle[side]);
}

void bind_rings(py::module_& module) {
    module.def("flatten_rings", &flatten_rings, py::arg("objects"),
               "Rings of each object, as points (n, 2), points of each ring, and object of each ring.");
    module.def("clip_rings", &clip_rings, py::arg("vertices"), py::arg("counts"), py::arg("rectangles"),
               "Rings cut down to one rectangle each (Sutherland and Hodgman, 1974): points and their counts.");
}

}  // namespace detcore::host
