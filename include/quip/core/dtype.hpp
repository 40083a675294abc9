// Element types of stored tensors, and the exact conversion to fp32 of those that quip computes
// with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "quip/core/matrix.hpp"

namespace quip {

/// Every type of the safetensors format, in the format's order: by alignment, the smallest first.
enum class DType {
  boolean,
  f4,
  f6_e2m3,
  f6_e3m2,
  u8,
  i8,
  f8_e5m2,
  f8_e4m3,
  f8_e8m0,
  f8_e4m3fnuz,
  f8_e5m2fnuz,
  i16,
  u16,
  f16,
  bf16,
  i32,
  u32,
  f32,
  c64,
  f64,
  i64,
  u64
};

/// Returns the bytes of one element; 1 for a type of fewer than 8 bits.
[[nodiscard]] index_t size_of(DType type);

/// Returns the bytes of `elements` elements. Types of fewer than 8 bits are stored without gaps.
[[nodiscard]] index_t bytes_of(DType type, index_t elements);

/// Returns the name that safetensors gives the type: "F32", "BF16", "I64", …
[[nodiscard]] std::string_view to_string(DType type);

/// Returns the type of that name, or nothing if the format has none.
[[nodiscard]] std::optional<DType> find_dtype(std::string_view name);

/// True if quip converts the type to fp32; tensors of other types are only carried along.
[[nodiscard]] bool computes_with(DType type);

/// Converts `out.size()` stored little-endian elements to fp32 (exact).
/// `in` holds `out.size() * size_of(type)` bytes and may be unaligned.
/// Throws Error unless quip computes with the type.
void to_float(DType type, std::span<const std::byte> in, std::span<float> out);

/// Rounds to the nearest bfloat16, ties to even; NaN stays NaN.
[[nodiscard]] std::uint16_t to_bf16(float value);

/// Returns the exact fp32 value of a bfloat16.
[[nodiscard]] float from_bf16(std::uint16_t bits);

/// Returns the exact fp32 value of an IEEE half.
[[nodiscard]] float from_f16(std::uint16_t bits);

/// Rounds to the nearest IEEE half, ties to even; beyond the largest it is infinity.
[[nodiscard]] std::uint16_t to_f16(float value);

/// Returns the index of the first NaN or infinity, or -1.
[[nodiscard]] index_t first_nonfinite(std::span<const float> values);

}  // namespace quip
