#include "quip/quant/code/packing.hpp"

namespace quip {

void pack_row(const std::uint8_t* codes, index_t count, int bits, std::uint8_t* packed) {
  std::uint32_t pending = 0;
  int filled = 0;
  for (index_t k = 0; k < count; ++k) {
    pending |= static_cast<std::uint32_t>(codes[k]) << filled;
    filled += bits;
    while (filled >= 8) {
      *packed++ = static_cast<std::uint8_t>(pending);
      pending >>= 8;
      filled -= 8;
    }
  }
  if (filled > 0) *packed = static_cast<std::uint8_t>(pending);
}

void unpack_row(const std::uint8_t* packed, index_t count, int bits, std::uint8_t* codes) {
  const std::uint32_t mask = (1U << bits) - 1U;
  std::uint32_t pending = 0;
  int filled = 0;
  for (index_t k = 0; k < count; ++k) {
    if (filled < bits) {
      pending |= static_cast<std::uint32_t>(*packed++) << filled;
      filled += 8;
    }
    codes[k] = static_cast<std::uint8_t>(pending & mask);
    pending >>= bits;
    filled -= bits;
  }
}

}  // namespace quip
