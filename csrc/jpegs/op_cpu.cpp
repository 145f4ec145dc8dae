// JPEGs from files to pixels, several in one call: while it lasts no other thread waits for this one's Python.

#include <unistd.h>

#include <array>
#include <cerrno>

#include "common/tensor.h"
#include "jpegs/crc32.h"

namespace detcore::jpegs {
namespace {

// A row of `places`: where a JPEG lies, its checksum (-1: none is known), and the pixels that it must have.
struct Place {
    int64_t descriptor, offset, size, checksum, height, width;
};

bool read(const Place& place, uint8_t* to) {
    for (int64_t done = 0; done < place.size;) {
        const ssize_t got = pread(static_cast<int>(place.descriptor), to + done, static_cast<size_t>(place.size - done),
                                  place.offset + done);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        done += got;
    }
    return place.checksum < 0 || crc32(to, static_cast<size_t>(place.size)) == place.checksum;
}

bool is_jpeg(const uint8_t* data, int64_t size) {
    return size > 2 && data[0] == 0xFF && data[1] == 0xD8;
}

// By torchvision, whose operator is called from here: (3, height, width), as it lays RGB of neighbours side by side.
bool decode(const Tensor& file, const Place& place, uint8_t* to) {
    constexpr int64_t kRgb = 3;
    std::array<StableIValue, 3> stack{torch::stable::detail::from(file), torch::stable::detail::from(kRgb),
                                      torch::stable::detail::from(false)};
    if (torch_call_dispatcher("image::decode_jpeg", "", stack.data(), TORCH_ABI_VERSION)) return false;
    const auto pixels = torch::stable::detail::to<Tensor>(stack[0]);
    const bool fits = pixels.dim() == 3 && pixels.size(0) == 3 && pixels.size(1) == place.height &&
                      pixels.size(2) == place.width;
    if (!fits) return false;
    const Tensor rows = torch::stable::transpose(torch::stable::transpose(pixels, 0, 1), 1, 2);
    std::memcpy(to, torch::stable::contiguous(rows).const_data_ptr(),
                static_cast<size_t>(3 * place.height * place.width));
    return true;
}

Tensor read_jpegs(const Tensor& places, Tensor out) {
    STD_TORCH_CHECK(places.is_contiguous() && places.dim() == 2 && places.size(1) == 6, "places must be (n, 6)");
    const auto* rows = reinterpret_cast<const Place*>(data<int64_t>(places));
    Tensor done = new_tensor({places.size(0)}, ScalarType::Bool);
    int64_t start = 0;
    for (int64_t i = 0; i < places.size(0); ++i) {
        const Place& place = rows[i];
        const int64_t end = start + 3 * place.height * place.width;
        STD_TORCH_CHECK(place.height >= 0 && place.width >= 0 && end <= out.numel(), "out is too small");
        const Tensor file = new_tensor({std::max<int64_t>(place.size, 0)}, ScalarType::Byte);
        auto* bytes = mutable_data<uint8_t>(file);
        mutable_data<bool>(done)[i] = place.descriptor >= 0 && read(place, bytes) && is_jpeg(bytes, place.size) &&
                                      decode(file, place, mutable_data<uint8_t>(out) + start);
        start = end;
    }
    return done;
}

}  // namespace
}  // namespace detcore::jpegs

STABLE_TORCH_LIBRARY_IMPL(detcore, CPU, m) {
    m.impl("read_jpegs", TORCH_BOX(&detcore::jpegs::read_jpegs));
}
