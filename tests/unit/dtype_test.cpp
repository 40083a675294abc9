#include "quip/core/dtype.hpp"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "quip/core/error.hpp"

namespace quip::dtype_test {
namespace {

// IEEE 754 binary16 by its definition, in double arithmetic.
double half_by_definition(unsigned bits) {
  const double sign = (bits >> 15) != 0 ? -1.0 : 1.0;
  const int exponent = static_cast<int>((bits >> 10) & 31U);
  const double fraction = (bits & 1023U) / 1024.0;
  if (exponent == 31) {
    return fraction == 0 ? sign * std::numeric_limits<double>::infinity() : std::nan("");
  }
  return exponent == 0 ? sign * std::ldexp(fraction, -14)
                       : sign * std::ldexp(1.0 + fraction, exponent - 15);
}

std::vector<std::byte> all_16_bit_patterns() {
  std::vector<std::byte> bytes(2 * 65536);
  for (unsigned i = 0; i < 65536; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    std::memcpy(bytes.data() + 2 * i, &bits, 2);
  }
  return bytes;
}

TEST(DType, EveryHalfExpandsToItsValue) {
  std::vector<float> out(65536);
  to_float(DType::f16, all_16_bit_patterns(), out);
  for (unsigned i = 0; i < 65536; ++i) {
    const double expected = half_by_definition(i);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(out[i])) << i;
    } else {
      ASSERT_EQ(out[i], expected) << i;
      ASSERT_EQ(std::signbit(out[i]), (i >> 15) != 0) << i;
    }
    ASSERT_EQ(std::bit_cast<std::uint32_t>(out[i]),
              std::bit_cast<std::uint32_t>(from_f16(static_cast<std::uint16_t>(i))));
  }
}

TEST(DType, KnownHalves) {
  EXPECT_EQ(from_f16(0x3c00), 1.0F);
  EXPECT_EQ(from_f16(0xc000), -2.0F);
  EXPECT_EQ(from_f16(0x7bff), 65504.0F);
  EXPECT_EQ(from_f16(0x0001), std::ldexp(1.0F, -24));
  EXPECT_EQ(from_f16(0xfc00), -std::numeric_limits<float>::infinity());
}

TEST(DType, EveryBfloatIsTheUpperHalfOfAFloat) {
  std::vector<float> out(65536);
  to_float(DType::bf16, all_16_bit_patterns(), out);
  for (unsigned i = 0; i < 65536; ++i) {
    ASSERT_EQ(std::bit_cast<std::uint32_t>(out[i]), i << 16);
    ASSERT_EQ(std::bit_cast<std::uint32_t>(from_bf16(static_cast<std::uint16_t>(i))), i << 16);
  }
}

TEST(DType, FloatsAreCopiedFromAnUnalignedAddress) {
  const std::vector<float> values = {1.5F, -0.0F, 3e-40F, 1e38F};
  std::vector<std::byte> bytes(1 + sizeof(float) * values.size());
  std::memcpy(bytes.data() + 1, values.data(), sizeof(float) * values.size());
  std::vector<float> out(values.size());
  to_float(DType::f32, std::span(bytes).subspan(1), out);
  EXPECT_EQ(std::memcmp(out.data(), values.data(), sizeof(float) * values.size()), 0);
}

TEST(DType, HalvesAreReadFromAnUnalignedAddress) {
  const std::vector<std::byte> bytes = {std::byte{0xff}, std::byte{0x00}, std::byte{0x3c},
                                        std::byte{0x00}, std::byte{0xc0}};
  std::vector<float> out(2);
  to_float(DType::f16, std::span(bytes).subspan(1), out);
  EXPECT_EQ(out, (std::vector<float>{1.0F, -2.0F}));
}

TEST(DType, RoundingToBfloatIsNearestEven) {
  EXPECT_EQ(to_bf16(1.0F), 0x3f80);
  // 1 + 2⁻⁸ lies half-way between 1 and 1 + 2⁻⁷: to the even mantissa, 1.
  EXPECT_EQ(to_bf16(1.0F + std::ldexp(1.0F, -8)), 0x3f80);
  // 1 + 3·2⁻⁸ lies half-way between an odd and an even mantissa: up.
  EXPECT_EQ(to_bf16(1.0F + 3 * std::ldexp(1.0F, -8)), 0x3f82);
  EXPECT_EQ(to_bf16(1.0F + std::ldexp(1.0F, -8) + std::ldexp(1.0F, -20)), 0x3f81);
  EXPECT_EQ(to_bf16(-std::numeric_limits<float>::max()), 0xff80);  // overflows to −∞
  EXPECT_EQ(to_bf16(std::numeric_limits<float>::infinity()), 0x7f80);
}

TEST(DType, NaNStaysNaNAsBfloat) {
  for (const std::uint32_t bits : {0x7f800001U, 0x7fffffffU, 0xffffffffU, 0x7fc00000U}) {
    EXPECT_TRUE(std::isnan(from_bf16(to_bf16(std::bit_cast<float>(bits))))) << bits;
  }
}

TEST(DType, RoundTripThroughBfloatIsExactForEveryFinitePattern) {
  for (unsigned i = 0; i < 65536; ++i) {
    const float value = from_bf16(static_cast<std::uint16_t>(i));
    if (!std::isnan(value)) {
      ASSERT_EQ(to_bf16(value), i);
    }
  }
}

TEST(DType, FirstNonfiniteFindsTheFirst) {
  std::vector<float> values(10000, 3.4e38F);
  EXPECT_EQ(first_nonfinite(values), -1);
  EXPECT_EQ(first_nonfinite({}), -1);
  values[9999] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(first_nonfinite(values), 9999);
  values[5000] = -std::numeric_limits<float>::infinity();
  EXPECT_EQ(first_nonfinite(values), 5000);
  values[0] = std::bit_cast<float>(0x7f800001U);  // a signalling NaN
  EXPECT_EQ(first_nonfinite(values), 0);
}

// The types of the format's own library (safetensors 0.7, Dtype), with their bits.
TEST(DType, KnowsEveryTypeOfSafetensors) {
  const std::vector<std::pair<const char*, int>> types = {
      {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
      {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
      {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
      {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
      {"I64", 64},        {"U64", 64}};
  int order = 0;
  for (const auto& [name, bits] : types) {
    const std::optional<DType> type = find_dtype(name);
    ASSERT_TRUE(type) << name;
    EXPECT_EQ(static_cast<int>(*type), order++) << name;
    EXPECT_EQ(to_string(*type), name);
    EXPECT_EQ(bytes_of(*type, 24), 3 * bits) << name;
    EXPECT_EQ(size_of(*type), bits < 8 ? 1 : bits / 8) << name;
    const std::string text = name;
    EXPECT_EQ(computes_with(*type), text == "F32" || text == "F16" || text == "BF16") << name;
  }
  EXPECT_FALSE(find_dtype("Q9"));
  EXPECT_FALSE(find_dtype("f32"));
  EXPECT_EQ(bytes_of(DType::f4, 2), 1);
  EXPECT_EQ(bytes_of(DType::f64, index_t{1} << 59), index_t{1} << 62);
}

TEST(DType, DoesNotComputeWithTheOthers) {
  std::vector<float> out(1);
  EXPECT_THROW(to_float(DType::i32, std::vector<std::byte>(4), out), Error);
}

}  // namespace
}  // namespace quip::dtype_test
