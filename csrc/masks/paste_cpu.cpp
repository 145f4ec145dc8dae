#include "masks/paste.h"

#include <cstring>
#include <utility>
#include <vector>

#include "common/parallel.h"
#include "common/tensor.h"

namespace detcore::masks {
namespace {

// The samples of one mask in its window of the image, row by row. A row of the mask is mixed along its columns once for
// all rows of the image that it takes part in: what is left runs straight.
template <class A>
class Samples {
  public:
    Samples(const A* mask, int64_t size, const A* box, const Window& window)
        : mask_(mask), size_(size), low_(box[1]), high_(box[3]), count_(window.x.end - window.x.begin) {
        for (auto* line : {&right_, &upper_, &lower_}) line->resize(count_);
        first_.resize(count_);
        for (int64_t i = 0; i < count_; ++i) {
            const Between<A> column = between(box[0], box[2], window.x.begin + i, size);
            first_[i] = column.first;
            right_[i] = column.share;
        }
    }

    // Calls visit(i, sample) for the image's row y, for as many columns as the window has.
    template <class F>
    void row(int64_t y, const F& visit) {
        const Between<A> row = between(low_, high_, y, size_);
        if (row.first != row_) {
            if (row.first == row_ + 1) {
                std::swap(upper_, lower_);
            } else {
                lay_out(row.first, upper_);
            }
            lay_out(row.first + 1, lower_);
            row_ = row.first;
        }
        const A *upper = upper_.data(), *lower = lower_.data();
        const A share = row.share;
        const int64_t count = count_;
        for (int64_t i = 0; i < count; ++i) visit(i, mixed(share, upper[i], lower[i]));
    }

  private:
    // Outside the mask all is 0.
    void lay_out(int64_t row, std::vector<A>& values) const {
        if (row < 0 || row >= size_) return std::fill(values.begin(), values.end(), A(0));
        const A* from = mask_ + row * size_;
        for (int64_t i = 0; i < count_; ++i) {
            const int left = first_[i];
            values[i] = mixed(right_[i], left >= 0 && left < size_ ? from[left] : A(0),
                              left >= -1 && left + 1 < size_ ? from[left + 1] : A(0));
        }
    }

    const A* mask_;
    int64_t size_;
    A low_, high_;
    int64_t count_, row_ = -9;
    std::vector<int> first_;
    std::vector<A> right_, upper_, lower_;
};

template <class A>
void paste(const A* mask, int64_t size, const A* box, int64_t height, int64_t width, A threshold, bool* out) {
    const Window window = window_of(box, size, height, width);
    if (window.empty()) {
        std::memset(out, 0, height * width);
        return;
    }
    const int64_t left = window.x.begin, count = window.x.end - left;
    std::memset(out, 0, window.y.begin * width);
    std::memset(out + window.y.end * width, 0, (height - window.y.end) * width);
    Samples<A> samples(mask, size, box, window);
    for (int64_t y = window.y.begin; y < window.y.end; ++y) {
        bool* to = out + y * width;
        std::memset(to, 0, left);
        std::memset(to + left + count, 0, width - left - count);
        to += left;
        samples.row(y, [=](int64_t i, A sample) { to[i] = sample >= threshold; });
    }
}

// The window's columns one after the other, each in whole words of 64 rows, the uppermost row in the lowest bit.
template <class A>
void pack(const A* mask, int64_t size, const A* box, const Window& window, A threshold, uint64_t* out) {
    const int64_t count = window.x.end - window.x.begin, rows = window.y.end - window.y.begin;
    const int64_t words = (rows + 63) / 64;
    Samples<A> samples(mask, size, box, window);
    std::vector<uint64_t> bits(count);
    for (int64_t word = 0; word < words; ++word) {
        std::fill(bits.begin(), bits.end(), 0);
        for (int64_t bit = 0; bit < std::min<int64_t>(64, rows - 64 * word); ++bit) {
            samples.row(window.y.begin + 64 * word + bit, [=, column = bits.data()](int64_t i, A sample) {
                column[i] |= static_cast<uint64_t>(sample >= threshold) << bit;
            });
        }
        for (int64_t i = 0; i < count; ++i) out[i * words + word] = bits[i];
    }
}

}  // namespace

Tensor paste_masks(const Tensor& masks, const Tensor& boxes, int64_t height, int64_t width, double threshold) {
    const int64_t count = masks.size(0), size = masks.size(1);
    Tensor out = new_tensor({count, height, width}, ScalarType::Bool);
    bool* pasted = mutable_data<bool>(out);
    const auto run = [&]<class A>(A) {
        const Tensor own_masks = as<A>(masks), own_boxes = as<A>(boxes);
        const A *mask = data<A>(own_masks), *box = data<A>(own_boxes);
        parallel_tasks(count, [&](int64_t k) {
            paste(mask + k * size * size, size, box + 4 * k, height, width, static_cast<A>(threshold),
                  pasted + k * height * width);
        });
    };
    masks.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
    return out;
}

Tensor pack_masks(const Tensor& masks, const Tensor& boxes, const Tensor& windows, const Tensor& starts,
                  int64_t num_words, double threshold) {
    const int64_t count = masks.size(0), size = masks.size(1);
    Tensor out = new_tensor({num_words}, ScalarType::Long);
    auto* words = static_cast<uint64_t*>(out.mutable_data_ptr());
    const Tensor own_windows = as<int64_t>(windows), own_starts = as<int64_t>(starts);
    const int64_t *window = data<int64_t>(own_windows), *start = data<int64_t>(own_starts);
    const auto run = [&]<class A>(A) {
        const Tensor own_masks = as<A>(masks), own_boxes = as<A>(boxes);
        const A *mask = data<A>(own_masks), *box = data<A>(own_boxes);
        parallel_tasks(count, [&](int64_t k) {
            const int64_t* own = window + 4 * k;
            const Window at{{own[0], own[2]}, {own[1], own[3]}};
            if (!at.empty())
                pack(mask + k * size * size, size, box + 4 * k, at, static_cast<A>(threshold), words + start[k]);
        });
    };
    masks.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
    return out;
}

}  // namespace detcore::masks

STABLE_TORCH_LIBRARY_IMPL(detcore, CPU, m) {
    m.impl("paste_masks", TORCH_BOX(&detcore::masks::paste_masks));
    m.impl("pack_masks", TORCH_BOX(&detcore::masks::pack_masks));
}
