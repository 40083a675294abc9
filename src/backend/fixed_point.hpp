// Activations as integers, for the exact Hessian: the same on every kind of hardware.
#pragma once

#include <bit>
#include <cstdint>

namespace quip {

/// Returns the nearest integer (ties to even) for |x| ≤ 2²²; beyond that, and for NaN, a number
/// that does not fit in 16 bits.
[[gnu::always_inline]] constexpr std::int32_t to_integer(float x) {
  constexpr float round = 12582912.0F;  // 1.5·2²³: the sum's low bits are the integer
  return std::bit_cast<std::int32_t>(x + round) - std::bit_cast<std::int32_t>(round);
}

/// Returns zero if z fits in a signed 16-bit integer.
[[gnu::always_inline]] constexpr std::uint32_t excess(std::int32_t z) {
  return (static_cast<std::uint32_t>(z) + 32768U) >> 16;
}

// z = 2⁸·high + low + 128 with signed bytes.
inline constexpr std::int32_t zero_bytes = 128;  ///< the integer whose two bytes are zero
[[gnu::always_inline]] constexpr std::int8_t high_byte_of(std::int32_t z) {
  return static_cast<std::int8_t>(z >> 8);
}
[[gnu::always_inline]] constexpr std::int8_t low_byte_of(std::int32_t z) {
  return static_cast<std::int8_t>((z & 255) - 128);
}

}  // namespace quip
