// Values and targets as integers, so that costs of paths are exact sums.
#pragma once

#include <cstdint>
#include <vector>

#include "quant/trellis/kernels.hpp"

#include "quip/quant/trellis/codebook.hpp"

namespace quip::trellis {

/// Returns the steps after which a path can be at any node, wherever it was before.
constexpr int steps_to_any_node(int bits) { return (state_bits - bits + bits - 1) / bits; }

/// Returns the longest stretch over which costs may add up before the least of them is subtracted:
/// a path to any node from the best one, the step that is being taken and, where costs are lowered
/// every second step, the one before.
constexpr int unlowered_steps(int bits) {
  return steps_to_any_node(bits) + (alternates(bits) ? 2 : 1);
}

/// Returns the cost of a step of a search at `bits` bits, in integers: what kernels compute.
constexpr std::uint32_t distance_cost(int bits, int target, int value) {
  const int e = target - value;
  if (bits < max_narrow_bits) return static_cast<std::uint32_t>((e * e + (1 << 14)) >> 15);
  if (bits > max_narrow_bits) return static_cast<std::uint32_t>(e * e);
  const int cut = e > 32767 ? 32767 : (e < -32768 ? -32768 : e);
  return static_cast<std::uint32_t>((cut * cut) >> 16);
}

/// The integers that a search at `bits` bits works with.
struct Scaling {
  float unit = 1;                      ///< an integer 1 in the codebook's terms is 1/unit
  int limit = 0;                       ///< the greatest of |value|; targets beyond it are cut off
  std::vector<std::int16_t> values{};  ///< by state

  /// Returns the integer for a target; ±∞ are cut off like others, NaN is not allowed.
  [[nodiscard]] std::int16_t target(float x) const;
};

/// Picks the finest unit with which no sum of costs overflows, whatever the targets.
[[nodiscard]] Scaling scaling(Codebook codebook, int bits);

}  // namespace quip::trellis
