// Each tap reads and writes runs of channels. Columns are in the number type of the computation, since 16-bit matrix
// products are slow on most CPUs.
#include <algorithm>
#include <optional>

#include "common/lanes.h"
#include "common/parallel.h"
#include "common/tensor.h"
#include "deform_conv/shape.h"

namespace detcore::deform_conv {
namespace {

constexpr int kPositionsPerTask = 16;
constexpr int kFewestChannels = 16;  // a line of the cache

template <class T>
struct Operands {
    using A = Accumulator<T>;
    Shape shape;
    Tensor images, offsets, masks;

    Operands(const Shape& s, const Tensor& input, const Tensor& offset, const std::optional<Tensor>& mask)
        : shape(s),
          images(torch::stable::contiguous(input, MemoryFormat::ChannelsLast)),
          offsets(as<A>(offset)),
          masks(mask ? as<A>(*mask) : offsets),
          input(data<T>(images)),
          offset(data<A>(offsets)),
          mask(mask ? data<A>(masks) : nullptr) {}

    const T* input;
    const A *offset, *mask;

    BilinearTap<A> tap(Place at, int tap) const { return shape.tap(offset, at, tap); }
    A factor(Place at, int tap) const { return mask ? mask[shape.mask_index(at, tap)] : A(1); }

    // The four corners' channels.
    void corners(const BilinearTap<A>& tap, const T* (&out)[4]) const {
        out[0] = input + tap.pixel * shape.channels;
        out[1] = out[0] + tap.right() * shape.channels;
        out[2] = out[0] + tap.below(shape.width) * shape.channels;
        out[3] = out[2] + tap.right() * shape.channels;
    }

    // Calls f(channel, count, place in the columns) for each run of the tap's channels from `begin` to `end` that lies
    // together in the columns.
    template <class F>
    void runs(int position, int tap, int begin, int end, const F& f) const {
        const int depth = shape.channels / shape.groups;
        const int64_t row = shape.column_row(position, tap);
        for (int c = begin; c < end;) {
            const int next = std::min(end, (c / depth + 1) * depth);
            f(c, next - c, shape.column_index(row, c));
            c = next;
        }
    }

    template <class F>
    void runs(int position, int tap, const F& f) const {
        const int begin = shape.first_channel(tap);
        runs(position, tap, begin, begin + shape.channels_of_tap(), f);
    }
};

template <class T, class A>
void blend(const T* const (&corners)[4], int64_t first, const A (&weights)[4], int64_t count, A* out) {
    int64_t c = 0;
    for (; c + Lanes<A>::count <= count; c += Lanes<A>::count) {
        Lanes<A> sum = Lanes<A>::zero();
        for (int i = 0; i < 4; ++i) sum.add(weights[i], Lanes<A>::load(corners[i] + first + c));
        sum.store(out + c);
    }
    for (; c < count; ++c) {
        A sum = 0;
        for (int i = 0; i < 4; ++i) sum = multiply_add<A>(weights[i], widen(corners[i][first + c]), sum);
        out[c] = sum;
    }
}

// Adds the products of the gradient and each corner's values to dots.
template <class T, class A>
void correlate(const T* const (&corners)[4], int64_t first, const A* grad, int64_t count, A (&dots)[4]) {
    Lanes<A> sums[4];
    for (auto& sum : sums) sum = Lanes<A>::zero();
    int64_t c = 0;
    for (; c + Lanes<A>::count <= count; c += Lanes<A>::count) {
        const Lanes<A> own = Lanes<A>::load(grad + c);
        for (int i = 0; i < 4; ++i) sums[i].v += own.v * Lanes<A>::load(corners[i] + first + c).v;
    }
    for (int i = 0; i < 4; ++i) {
        for (int lane = 0; lane < Lanes<A>::count; ++lane) dots[i] += sums[i].v[lane];
        for (int64_t rest = c; rest < count; ++rest)
            dots[i] = multiply_add<A>(grad[rest], widen(corners[i][first + rest]), dots[i]);
    }
}

template <class A>
void add_scaled(A weight, const A* from, int64_t count, A* to) {
    int64_t c = 0;
    for (; c + Lanes<A>::count <= count; c += Lanes<A>::count) {
        Lanes<A> sum = Lanes<A>::load(to + c);
        sum.add(weight, Lanes<A>::load(from + c));
        sum.store(to + c);
    }
    for (; c < count; ++c) to[c] = multiply_add<A>(weight, from[c], to[c]);
}

template <class T, class A>
void sample(const Operands<T>& in, A* columns) {
    torch::stable::parallel_for(0, in.shape.count, kPositionsPerTask, [&](int64_t begin, int64_t end) {
        for (int position = static_cast<int>(begin); position < end; ++position) {
            const Place at = in.shape.place(position);
            for (int j = 0; j < in.shape.taps(); ++j) {
                const auto tap = in.tap(at, j);
                if (tap.pixel < 0) {
                    in.runs(position, j,
                            [&](int, int count, int64_t index) { std::fill_n(columns + index, count, A(0)); });
                    continue;
                }
                A weights[4];
                tap.weights(in.factor(at, j), weights);
                const T* corners[4];
                in.corners(tap, corners);
                in.runs(position, j,
                        [&](int c, int count, int64_t index) { blend(corners, c, weights, count, columns + index); });
            }
        }
    });
}

// A task owns some channels of an image, and adds to them position by position: so the sums do not depend on the number
// of threads, nor on how positions are split into calls.
template <class T, class A>
void scatter(const Operands<T>& in, const A* grad_columns, A* grad_input) {
    const Shape& s = in.shape;
    const int first_image = s.place(0).image, images = s.place(s.count - 1).image - first_image + 1;
    const int wanted = static_cast<int>(4 * torch::stable::get_num_threads()) / images;
    const int64_t slices = std::max(std::min(wanted, s.channels / kFewestChannels), 1);
    parallel_tasks(images * slices, [&](int64_t task) {
        const int image = first_image + static_cast<int>(task / slices);
        const int64_t slice = task % slices;
        const int c_begin = static_cast<int>(s.channels * slice / slices);
        const int c_end = static_cast<int>(s.channels * (slice + 1) / slices);
        const int64_t before = int64_t{image} * s.out_area() - s.first;
        const int begin = static_cast<int>(std::max<int64_t>(before, 0));
        const int end = static_cast<int>(std::min<int64_t>(before + s.out_area(), s.count));
        const int first_tap = c_begin / s.channels_of_tap() * s.taps_of_group();
        const int end_tap = ((c_end - 1) / s.channels_of_tap() + 1) * s.taps_of_group();
        for (int position = begin; position < end; ++position) {
            const Place at = s.place(position);
            for (int j = first_tap; j < end_tap; ++j) {
                const auto tap = in.tap(at, j);
                if (tap.pixel < 0) continue;
                A weights[4];
                tap.weights(in.factor(at, j), weights);
                const int64_t right = tap.right(), below = tap.below(s.width),
                              pixels[4] = {0, right, below, below + right};
                const int own = s.first_channel(j);
                in.runs(position, j, std::max(c_begin, own), std::min(c_end, own + s.channels_of_tap()),
                        [&](int c, int count, int64_t index) {
                            for (int i = 0; i < 4; ++i)
                                if (weights[i] != 0)
                                    add_scaled(weights[i], grad_columns + index, count,
                                               grad_input + (tap.pixel + pixels[i]) * s.channels + c);
                        });
            }
        }
    });
}

// Turns the columns' gradients into those of offsets and masks, and the columns into what was sampled.
template <class T, class A>
void differentiate(const Operands<T>& in, A* columns, A* grad_offset, A* grad_mask) {
    const Shape& s = in.shape;
    torch::stable::parallel_for(0, s.count, kPositionsPerTask, [&](int64_t begin, int64_t end) {
        for (int position = static_cast<int>(begin); position < end; ++position) {
            const Place at = s.place(position);
            for (int j = 0; j < s.taps(); ++j) {
                const auto tap = in.tap(at, j);
                const A factor = in.factor(at, j);
                A weights[4], dots[4] = {}, value, by_y, by_x;
                if (tap.pixel < 0) {
                    in.runs(position, j,
                            [&](int, int count, int64_t index) { std::fill_n(columns + index, count, A(0)); });
                } else {
                    const T* corners[4];
                    in.corners(tap, corners);
                    tap.weights(factor, weights);
                    in.runs(position, j, [&](int c, int count, int64_t index) {
                        correlate(corners, c, columns + index, count, dots);
                        blend(corners, c, weights, count, columns + index);
                    });
                }
                tap.derive(dots, value, by_y, by_x);
                if (grad_offset) {
                    A* to = grad_offset + s.offset_index(at, j);
                    to[0] = by_y * factor;
                    to[s.out_area()] = by_x * factor;
                }
                if (grad_mask) grad_mask[s.mask_index(at, j)] = value;
            }
        }
    });
}

template <class A>
A* pointer(const std::optional<Tensor>& tensor) {
    return tensor ? mutable_data<A>(*tensor) : nullptr;
}

}  // namespace

Tensor columns(const Tensor& input, const Tensor& offset, const std::optional<Tensor>& mask,
               const std::vector<int64_t>& kernel, const std::vector<int64_t>& stride,
               const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation, int64_t groups, int64_t first,
               int64_t count) {
    const Shape shape = shape_of(input, offset, kernel, stride, padding, dilation, groups, first, count);
    Tensor out;
    dispatch_float(input.scalar_type(), [&]<class T>(T) {
        using A = Accumulator<T>;
        out = new_tensor({groups, count, shape.taps_of_group() * (shape.channels / groups)}, scalar_type_of<A>());
        if (out.numel()) sample<T>(Operands<T>(shape, input, offset, mask), mutable_data<A>(out));
    });
    return out;
}

void columns_backward(Tensor columns, const Tensor& input, const Tensor& offset, const std::optional<Tensor>& mask,
                      std::optional<Tensor> grad_input, std::optional<Tensor> grad_offset,
                      std::optional<Tensor> grad_mask, std::optional<Tensor>, const std::vector<int64_t>& kernel,
                      const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                      const std::vector<int64_t>& dilation, int64_t groups, int64_t first, int64_t count) {
    if (columns.numel() == 0) return;
    dispatch_float(input.scalar_type(), [&]<class T>(T) {
        using A = Accumulator<T>;
        const Operands<T> in(shape_of(input, offset, kernel, stride, padding, dilation, groups, first, count), input,
                             offset, mask);
        A* own = mutable_data<A>(columns);
        if (grad_input) scatter(in, own, mutable_data<A>(*grad_input));
        differentiate(in, own, pointer<A>(grad_offset), pointer<A>(grad_mask));
    });
}

}  // namespace detcore::deform_conv

STABLE_TORCH_LIBRARY_IMPL(detcore, CPU, m) {
    m.impl("deform_columns", TORCH_BOX(&detcore::deform_conv::columns));
    m.impl("deform_columns_backward", TORCH_BOX(&detcore::deform_conv::columns_backward));
}
