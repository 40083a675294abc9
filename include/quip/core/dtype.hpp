// Element types of stored tensors and their exact conversion to fp32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "quip/core/matrix.hpp"

namespace quip {

enum class DType { f32, f16, bf16 };

/// Bytes of one element.
[[nodiscard]] constexpr index_t size_of(DType type) { return type == DType::f32 ? 4 : 2; }

/// "F32", "F16" or "BF16", as safetensors writes them.
[[nodiscard]] std::string_view to_string(DType type);

/// Converts `out.size()` stored little-endian elements to fp32 (exact).
/// `in` holds `out.size() * size_of(type)` bytes and may be unaligned.
void to_float(DType type, std::span<const std::byte> in, std::span<float> out);

/// Rounds to the nearest bfloat16, ties to even; NaN stays NaN.
[[nodiscard]] std::uint16_t to_bf16(float value);

/// The exact fp32 value of a bfloat16.
[[nodiscard]] float from_bf16(std::uint16_t bits);

/// The exact fp32 value of an IEEE half.
[[nodiscard]] float from_f16(std::uint16_t bits);

/// The index of the first NaN or infinity, or -1.
[[nodiscard]] index_t first_nonfinite(std::span<const float> values);

}  // namespace quip
