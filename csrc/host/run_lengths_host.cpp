// COCO's run lengths: pixels down the columns, runs of background and mask in turn, background first; each number but
// the first three less the one two before, in characters of five bits, the lowest first.
#include <bit>
#include <optional>
#include <string>
#include <string_view>

#include "host/arrays.h"

namespace detcore::host {
namespace {

class Counts {
  public:
    void add(int64_t run) {
        int64_t value = number_ > 2 ? run - before_last_ : run;
        before_last_ = last_;
        last_ = run;
        ++number_;
        for (bool more = true; more;) {
            int64_t bits = value & 0x1f;
            value >>= 5;
            more = bits & 0x10 ? value != -1 : value != 0;
            text_.push_back(static_cast<char>((more ? bits | 0x20 : bits) + 48));
        }
    }

    const std::string& text() const { return text_; }

  private:
    std::string text_;
    int64_t number_ = 0, last_ = 0, before_last_ = 0;
};

struct Window {
    int64_t x0, y0, x1, y1;
};

// The mask's columns inside the window, in whole words of 64 rows from y0 on; everywhere else it is background.
std::string counts_of(const uint64_t* words, const Window& window, int64_t height, int64_t width) {
    Counts counts;
    int64_t begin = 0;  // of the run that is on its way
    bool inside = false;
    const auto change = [&](int64_t place) {
        counts.add(place - begin);
        begin = place;
        inside = !inside;
    };
    const int64_t rows = window.y1 - window.y0;
    for (int64_t x = window.x0; x < window.x1 && rows > 0; ++x) {
        const int64_t column = x * height + window.y0;
        // Above the window lies background, unless the window is as high as the image.
        if (inside && window.y0 > 0) change(x * height);
        for (int64_t row = 0; row < rows; row += 64) {
            uint64_t bits = *words++;
            const int64_t valid = std::min<int64_t>(64, rows - row);
            // A one where a pixel is not as the one before.
            uint64_t changes = bits ^ (bits << 1 | (inside ? 1 : 0));
            if (valid < 64) changes &= (uint64_t{1} << valid) - 1;
            for (; changes; changes &= changes - 1) change(column + row + std::countr_zero(changes));
        }
        if (inside && window.y1 < height) change(column + rows);
    }
    if (inside && window.x1 < width) change(window.x1 * height);
    counts.add(height * width - begin);
    return counts.text();
}

py::list run_lengths(const Array<uint64_t>& words, const Array<int64_t>& starts, const Array<int64_t>& windows,
                     int64_t height, int64_t width) {
    const int64_t number = starts.size(), num_words = words.size();
    if (windows.size() != 4 * number) throw py::value_error("run_lengths: starts and windows do not agree");
    std::vector<std::string> texts(number);
    {
        const py::gil_scoped_release release;
        for (int64_t k = 0; k < number; ++k) {
            const int64_t* own = windows.data() + 4 * k;
            const Window window{own[0], own[1], own[2], own[3]};
            const int64_t start = starts.data()[k];
            const bool empty = window.x0 >= window.x1 || window.y0 >= window.y1;
            const int64_t needed = empty ? 0 : (window.x1 - window.x0) * ((window.y1 - window.y0 + 63) / 64);
            const bool inside =
                empty || (window.x0 >= 0 && window.y0 >= 0 && window.x1 <= width && window.y1 <= height);
            if (!inside || start < 0 || start > num_words - needed)
                throw py::value_error("run_lengths: a window leaves the image or the words");
            texts[k] = counts_of(words.data() + start, window, height, width);
        }
    }
    py::list out;
    for (const std::string& text : texts) out.append(py::bytes(text));
    return out;
}

std::optional<std::vector<int64_t>> decoded(std::string_view text) {
    constexpr int kMostBits = 60;
    std::vector<int64_t> runs;
    int64_t value = 0;
    int shift = 0;
    for (const char character : text) {
        const int bits = character - 48;
        if (bits < 0 || bits >= 64 || shift >= kMostBits) return std::nullopt;
        value |= int64_t{bits & 0x1f} << shift;
        shift += 5;
        if (bits & 0x20) continue;
        if (bits & 0x10) value -= int64_t{1} << shift;
        runs.push_back(runs.size() > 2 ? value + runs[runs.size() - 2] : value);
        value = shift = 0;
    }
    if (shift) return std::nullopt;
    return runs;
}

py::object decode_runs(const std::string& text) {
    std::optional<std::vector<int64_t>> runs;
    {
        const py::gil_scoped_release release;
        runs = decoded(text);
    }
    return runs ? py::object(array_of(*runs)) : py::none();
}

}  // namespace

void bind_run_lengths(py::module_& module) {
    module.def("run_lengths", &run_lengths, py::arg("words"), py::arg("starts"), py::arg("windows"), py::arg("height"),
               py::arg("width"), "Masks packed into bits, as COCO's compressed run lengths.");
    module.def("decode_runs", &decode_runs, py::arg("counts"),
               "The run lengths in a compressed string, or None if it is malformed.");
}

}  // namespace detcore::host
