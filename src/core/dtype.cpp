#include "quip/core/dtype.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "quip/core/error.hpp"

namespace quip {
namespace {

static_assert(std::endian::native == std::endian::little,
              "stored tensors are little-endian and are converted without swapping");

struct Traits {
  DType type;
  std::string_view name;
  int bits;
  bool computable = false;
};

constexpr std::array types = {Traits{DType::boolean, "BOOL", 8},
                              Traits{DType::f4, "F4", 4},
                              Traits{DType::f6_e2m3, "F6_E2M3", 6},
                              Traits{DType::f6_e3m2, "F6_E3M2", 6},
                              Traits{DType::u8, "U8", 8},
                              Traits{DType::i8, "I8", 8},
                              Traits{DType::f8_e5m2, "F8_E5M2", 8},
                              Traits{DType::f8_e4m3, "F8_E4M3", 8},
                              Traits{DType::f8_e8m0, "F8_E8M0", 8},
                              Traits{DType::f8_e4m3fnuz, "F8_E4M3FNUZ", 8},
                              Traits{DType::f8_e5m2fnuz, "F8_E5M2FNUZ", 8},
                              Traits{DType::i16, "I16", 16},
                              Traits{DType::u16, "U16", 16},
                              Traits{DType::f16, "F16", 16, true},
                              Traits{DType::bf16, "BF16", 16, true},
                              Traits{DType::i32, "I32", 32},
                              Traits{DType::u32, "U32", 32},
                              Traits{DType::f32, "F32", 32, true},
                              Traits{DType::c64, "C64", 64},
                              Traits{DType::f64, "F64", 64},
                              Traits{DType::i64, "I64", 64},
                              Traits{DType::u64, "U64", 64}};

constexpr const Traits& traits_of(DType type) { return types[static_cast<std::size_t>(type)]; }

static_assert(std::ranges::all_of(types,
                                  [](const Traits& t) { return traits_of(t.type).type == t.type; }),
              "the table is in the order of DType");

constexpr std::uint32_t exponent_f32 = 0x7f800000U;

std::uint16_t load16(const std::byte* in, std::size_t i) {
  std::uint16_t bits;
  std::memcpy(&bits, in + 2 * i, sizeof bits);
  return bits;
}

// Masks instead of branches, and no subnormal operands: this vectorises, and gives the same
// values where the processor flushes subnormals to zero.
inline float expand_f16(std::uint16_t half) {
  constexpr std::uint32_t exponent_mask = 0x7c00U << 13;
  constexpr std::uint32_t rebias = (127U - 15U) << 23;
  constexpr std::uint32_t smallest_normal = rebias + (1U << 23);
  const std::uint32_t sign = (half & 0x8000U) << 16;
  const std::uint32_t shifted = (half & 0x7fffU) << 13;
  const std::uint32_t exponent = shifted & exponent_mask;
  const std::uint32_t special = -std::uint32_t{exponent == exponent_mask};  // infinity, NaN
  const std::uint32_t tiny = -std::uint32_t{exponent == 0};                 // zero, subnormal
  // The exponent field of an infinity or NaN is all ones on both sides: rebias twice. A
  // subnormal m·2⁻²⁴ is built as (1 + m/2¹⁰)·2⁻¹⁴, and 2⁻¹⁴ is taken off again, exactly.
  const std::uint32_t magnitude = shifted + rebias + (special & rebias) + (tiny & (1U << 23));
  const float value =
      std::bit_cast<float>(magnitude) - std::bit_cast<float>(tiny & smallest_normal);
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(value));
}

inline float expand_bf16(std::uint16_t bits) {
  return std::bit_cast<float>(std::uint32_t{bits} << 16);
}

inline bool is_nonfinite(float value) {
  return (std::bit_cast<std::uint32_t>(value) & exponent_f32) == exponent_f32;
}

}  // namespace

index_t size_of(DType type) { return std::max(traits_of(type).bits / 8, 1); }

index_t bytes_of(DType type, index_t elements) {
  const index_t bits = traits_of(type).bits;  // eight elements at a time: their bits may overflow
  return elements / 8 * bits + elements % 8 * bits / 8;
}

std::string_view to_string(DType type) { return traits_of(type).name; }

std::optional<DType> find_dtype(std::string_view name) {
  const auto* found = std::ranges::find(types, name, &Traits::name);
  if (found == types.end()) return std::nullopt;
  return found->type;
}

bool computes_with(DType type) { return traits_of(type).computable; }

void to_float(DType type, std::span<const std::byte> in, std::span<float> out) {
  if (out.empty()) return;
  const std::byte* source = in.data();
  float* target = out.data();
  const std::size_t count = out.size();
  switch (type) {
    case DType::f32:
      std::memcpy(target, source, count * sizeof(float));
      return;
    case DType::f16:
      for (std::size_t i = 0; i < count; ++i) target[i] = expand_f16(load16(source, i));
      return;
    case DType::bf16:
      for (std::size_t i = 0; i < count; ++i) target[i] = expand_bf16(load16(source, i));
      return;
    default:
      fail("quip does not compute with elements of type {}", to_string(type));
  }
}

std::uint16_t to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  // Rounding could carry a NaN's payload into the sign: keep its upper half, made quiet.
  if (value != value) return static_cast<std::uint16_t>((bits >> 16) | 0x0040U);
  const std::uint32_t tie_to_even = 0x7fffU + ((bits >> 16) & 1U);
  return static_cast<std::uint16_t>((bits + tie_to_even) >> 16);
}

float from_bf16(std::uint16_t bits) { return expand_bf16(bits); }

float from_f16(std::uint16_t bits) { return expand_f16(bits); }

std::uint16_t to_f16(float value) {
  constexpr float largest = 65504.0F;
  const auto sign = static_cast<std::uint16_t>(std::signbit(value) ? 0x8000U : 0U);
  const float size = std::abs(value);
  if (std::isnan(value)) return sign | 0x7e00U;
  if (size >= largest + 16.0F) return sign | 0x7c00U;
  // A sum with a power of two leaves as many bits below it as the half has at this exponent.
  const int exponent = std::max(std::ilogb(std::max(size, 1e-10F)), -14);
  const float unit = std::ldexp(1.0F, exponent - 10);
  const auto steps = static_cast<std::uint32_t>(std::nearbyint(size / unit));
  // Below 2⁻¹⁴ steps are the bits; above, 2¹⁰ of them are the implied one, and a carry is right.
  return static_cast<std::uint16_t>(sign |
                                    (((static_cast<std::uint32_t>(exponent + 14)) << 10) + steps));
}

index_t first_nonfinite(std::span<const float> values) {
  // Blocks without an early exit vectorise; only a bad block is searched.
  constexpr std::size_t block = 4096;
  for (std::size_t first = 0; first < values.size(); first += block) {
    const auto part = values.subspan(first, std::min(block, values.size() - first));
    std::uint32_t bad = 0;
    for (const float value : part) bad |= is_nonfinite(value) ? 1U : 0U;
    if (bad == 0) continue;
    const auto found = std::find_if(part.begin(), part.end(), is_nonfinite);
    return static_cast<index_t>(first) + (found - part.begin());
  }
  return -1;
}

}  // namespace quip
