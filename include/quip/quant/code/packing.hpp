// Codes of a few bits each, one after the other, the least significant bit first.
#pragma once

#include <cstdint>

#include "quip/core/matrix.hpp"

namespace quip {

/// Returns the bytes of `count` codes of `bits` bits each; for kernels, too.
[[nodiscard]] constexpr index_t packed_bytes(index_t count, index_t bits) {
  return (count * bits + 7) / 8;
}

/// Packs `count` codes (each < 2^bits, one byte each) into packed_bytes(count, bits) bytes.
void pack_row(const std::uint8_t* codes, index_t count, int bits, std::uint8_t* packed);
/// Undoes that.
void unpack_row(const std::uint8_t* packed, index_t count, int bits, std::uint8_t* codes);

}  // namespace quip
