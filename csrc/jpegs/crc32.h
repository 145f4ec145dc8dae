// The checksum of zlib and PNG (ISO 3309): the reflected polynomial 0xEDB88320.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace detcore::jpegs {

constexpr size_t kSlices = 16;

// tables[k][b]: what a byte b becomes once k more bytes have passed. With one table a byte waits for the byte before
// it; with sixteen, sixteen bytes are looked up at once (Kounavis and Berry, 2005).
constexpr auto kTables = [] {
    std::array<std::array<uint32_t, 256>, kSlices> tables{};
    for (uint32_t byte = 0; byte < 256; ++byte) {
        uint32_t rest = byte;
        for (int bit = 0; bit < 8; ++bit) rest = rest >> 1 ^ (rest & 1 ? 0xEDB88320u : 0u);
        tables[0][byte] = rest;
    }
    for (size_t slice = 1; slice < kSlices; ++slice)
        for (size_t byte = 0; byte < 256; ++byte) {
            const uint32_t before = tables[slice - 1][byte];
            tables[slice][byte] = before >> 8 ^ tables[0][before & 0xFF];
        }
    return tables;
}();

inline uint32_t crc32(const uint8_t* data, size_t size) {
    static_assert(std::endian::native == std::endian::little);
    uint32_t rest = 0xFFFFFFFFu;
    for (; size >= kSlices; data += kSlices, size -= kSlices) {
        uint32_t words[kSlices / 4];
        std::memcpy(words, data, kSlices);
        words[0] ^= rest;
        rest = 0;
        for (size_t at = 0; at < kSlices; ++at)
            rest ^= kTables[kSlices - 1 - at][words[at / 4] >> 8 * (at % 4) & 0xFF];
    }
    for (; size > 0; ++data, --size) rest = rest >> 8 ^ kTables[0][(rest ^ *data) & 0xFF];
    return ~rest;
}

}  // namespace detcore::jpegs
