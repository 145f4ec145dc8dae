// Arrays that come from numpy, and those that go there.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace detcore::host {

namespace py = pybind11;

// In row-major order and of the type T, converted if it is not so already.
template <class T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

template <class T>
py::array_t<T> array_of(const std::vector<T>& values) {
    py::array_t<T> out(static_cast<py::ssize_t>(values.size()));
    std::copy(values.begin(), values.end(), out.mutable_data());
    return out;
}

// Pairs (x, y) as rows of two.
template <class T>
py::array_t<double> points_of(const std::vector<T>& values) {
    py::array_t<double> out({static_cast<py::ssize_t>(values.size() / 2), py::ssize_t{2}});
    std::copy(values.begin(), values.end(), out.mutable_data());
    return out;
}

}  // namespace detcore::host
