#include "quant/trellis/scaling.hpp"

#include <algorithm>
#include <cmath>

namespace quip::trellis {
namespace {

double largest(std::span<const float, state_count> values) {
  double most = 0;
  for (const float v : values) most = std::max(most, std::fabs(double{v}));
  return most;
}

/// Returns the most that a path of `steps` steps can cost: target and value at each step on
/// opposite sides of 0, the target as far off as any value is. Fewer than steps · (2 · most)²: no
/// path visits extreme values only.
double dearest_path(std::span<const float, state_count> values, int bits, int steps) {
  const double most = largest(values);
  const std::size_t nodes = std::size_t{state_count} >> bits;
  std::vector<double> cost(nodes, 0.0);
  std::vector<double> next(nodes);
  for (int step = 0; step < steps; ++step) {
    std::fill(next.begin(), next.end(), 0.0);
    for (std::size_t s = 0; s < state_count; ++s) {
      const double distance = most + std::fabs(double{values[s]});
      double& node = next[s % nodes];
      node = std::max(node, cost[s >> bits] + distance * distance);
    }
    cost.swap(next);
  }
  return *std::max_element(cost.begin(), cost.end());
}

/// Returns the unit for a codebook's values.
double finest_unit(std::span<const float, state_count> values, int bits) {
  if (bits > max_narrow_bits) return std::floor(14000 / largest(values));   // 4 · 28000² < 2³²
  if (bits == max_narrow_bits) return std::floor(32767 / largest(values));  // see highest_cut_cost
  // 65,536 less 1 % for what rounding adds to each step.
  const double room = 64900.0 * (1 << 15);
  return std::floor(std::sqrt(room / dearest_path(values, bits, unlowered_steps(bits))));
}

}  // namespace

std::int16_t Scaling::target(float x) const {
  const auto bound = static_cast<float>(limit);
  return static_cast<std::int16_t>(std::lrint(std::clamp(x * unit, -bound, bound)));
}

Scaling scaling(Codebook codebook, int bits) {
  const auto values = codebook_values(codebook);
  Scaling result;
  result.unit = static_cast<float>(finest_unit(values, bits));
  result.values.resize(state_count);
  for (std::size_t s = 0; s < state_count; ++s) {
    const auto value = static_cast<int>(std::lrint(values[s] * result.unit));
    result.values[s] = static_cast<std::int16_t>(value);
    result.limit = std::max(result.limit, std::abs(value));
  }
  return result;
}

}  // namespace quip::trellis
