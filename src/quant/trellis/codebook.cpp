#include "quip/quant/trellis/codebook.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "core/names.hpp"

#include "quip/core/dtype.hpp"

namespace quip::trellis {
namespace {

constexpr Names<Codebook, 3> codebook_names = {
    {{Codebook::mul1, "mul1"}, {Codebook::mcg, "mcg"}, {Codebook::three_inst, "3inst"}}};

/// Returns the IEEE half nearest to a number below 65504, ties to even: as an instruction on halves
/// rounds its exact result.
std::uint16_t nearest_half(double value) {
  constexpr int least_exponent = -24;  // of the last bit of a subnormal
  constexpr int mantissa_bits = 10;
  const int exponent = value == 0 ? least_exponent : std::ilogb(value);
  const int last_bit = std::max(exponent - mantissa_bits, least_exponent);
  const auto mantissa = static_cast<int>(std::nearbyint(std::ldexp(std::fabs(value), -last_bit)));
  // Adding lets a mantissa that was rounded up to a power of two carry into the exponent, and
  // leaves that of a subnormal 0.
  const int magnitude = ((last_bit - least_exponent) << mantissa_bits) + mantissa;
  return static_cast<std::uint16_t>(magnitude | (std::signbit(value) ? 0x8000 : 0));
}

double half(std::uint32_t bits) { return from_f16(static_cast<std::uint16_t>(bits)); }

std::uint16_t mul1(std::uint32_t state) {
  const std::uint32_t x = state * 0x83DCD12DU;
  const std::uint32_t sum =
      (x & 255U) + ((x >> 8) & 255U) + ((x >> 16) & 255U) + (x >> 24) + 0x6400U;
  return nearest_half(half(sum) * half(0x1EEE) +
                      half(0xC931));  // in fp64 exact before it is rounded
}

/// The sum of two halves that differ from 0x3B60 in sign, low bits of the exponent and mantissa.
std::uint16_t sum_of_halves(std::uint32_t x) {
  const std::uint32_t both = (x & 0x8FFF8FFFU) ^ 0x3B603B60U;
  return nearest_half(half(both & 0xFFFFU) + half(both >> 16));
}

std::uint16_t half_of(Codebook codebook, std::uint32_t state) {
  switch (codebook) {
    case Codebook::mul1:
      return mul1(state);
    case Codebook::mcg:
      return sum_of_halves(state * 0xCBAC1FEDU);
    case Codebook::three_inst:
      return sum_of_halves(state * 89226354U + 64248484U);
  }
  return 0;
}

struct Table {
  std::vector<std::uint16_t> halves;
  std::vector<float> values;
  float rms = 0;

  explicit Table(Codebook codebook) : halves(state_count), values(state_count) {
    double squares = 0;
    for (std::uint32_t s = 0; s < state_count; ++s) {
      halves[s] = half_of(codebook, s);
      values[s] = from_f16(halves[s]);
      squares += double{values[s]} * values[s];  // of numbers with 22 bits: exact in any order
    }
    rms = static_cast<float>(std::sqrt(squares / state_count));
  }
};

const Table& table_of(Codebook codebook) {
  static const std::array<Table, 3> tables = {Table(Codebook::mul1), Table(Codebook::mcg),
                                              Table(Codebook::three_inst)};
  return tables[static_cast<std::size_t>(codebook)];
}

}  // namespace

std::string to_string(Codebook codebook) { return name_of(codebook, codebook_names); }
Codebook parse_codebook(const std::string& text) { return parse_name(text, codebook_names); }

std::span<const std::uint16_t, state_count> codebook_halves(Codebook codebook) {
  return std::span<const std::uint16_t, state_count>(table_of(codebook).halves);
}

std::span<const float, state_count> codebook_values(Codebook codebook) {
  return std::span<const float, state_count>(table_of(codebook).values);
}

float codebook_rms(Codebook codebook) { return table_of(codebook).rms; }

}  // namespace quip::trellis
