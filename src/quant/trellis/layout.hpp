// Where kernels want the costs of nodes and the values of states.
#pragma once

#include <algorithm>
#include <cstdint>

#include "quant/trellis/kernels.hpp"
#include "quant/trellis/scaling.hpp"

#include "quip/core/matrix.hpp"

namespace quip::trellis {

/// The node at the start of a walk that may start at any.
constexpr int free_start = -1;

/// The nodes of a trellis and their places for some kernels.
struct Layout {
  int bits = 1;
  const Kernels* kernels = nullptr;

  [[nodiscard]] int nodes() const { return state_count >> bits; }
  [[nodiscard]] int stems() const { return nodes() >> bits; }
  [[nodiscard]] int symbols() const { return 1 << bits; }

  /// Returns where the cost of a node stands.
  [[nodiscard]] int position_of(int node) const {
    if (bits > max_narrow_bits) return node;
    const auto& lane_bit = kernels->lane_bit[at(bits)];
    int position = node & -kernels->lanes;
    for (int k = 0; 1 << k < kernels->lanes; ++k) position |= ((node >> k) & 1) << lane_bit[at(k)];
    return position;
  }

  /// Returns where the value of a state stands in the table.
  [[nodiscard]] int table_position_of(int state) const {
    if (bits > max_narrow_bits) return state;
    const int lanes = kernels->lanes;
    const int stem = position_of(state % nodes() >> bits);
    const int row = (stem / lanes * symbols() + state / nodes()) * symbols() + state % symbols();
    return row * lanes + stem % lanes;
  }

  /// Returns the least node among those of least cost.
  template <typename Cost>
  [[nodiscard]] int best_node(const Cost* costs) const {
    const Cost least = *std::min_element(costs, costs + nodes());
    for (int node = 0; node < nodes(); ++node) {
      if (costs[position_of(node)] == least) return node;
    }
    return 0;
  }

  /// Lets a step take those predecessors only that a path from node `start` can have reached in
  /// `steps` steps: a block of 2^(steps·bits) nodes.
  template <typename Cost>
  void take_reached(Step<Cost>& step, int start, int steps) const {
    const int reached = std::min(1 << (steps * bits), nodes());
    const auto first =
        static_cast<int>((std::int64_t{start} << (steps * bits)) % nodes()) / reached * reached;
    step.first_h = first / stems();
    step.last_h = (first + reached + stems() - 1) / stems();
    step.first_stem = reached < stems() ? first % stems() : 0;
    step.last_stem = reached < stems() ? step.first_stem + reached : stems();
  }
};

/// Returns the values of a codebook as a table for kernels.
template <typename Cost>
Buffer<TableValue<Cost>> table_of(const Layout& layout, const Scaling& scaling) {
  Buffer<TableValue<Cost>> table(index_t{state_count});
  for (int s = 0; s < state_count; ++s) {
    const std::int16_t value = scaling.values[at(s)];
    if constexpr (sizeof(Cost) == 2) {
      table[layout.table_position_of(s)] = value;
    } else {
      table[s] = static_cast<std::uint16_t>(value);
    }
  }
  return table;
}

/// Returns the best kernels for this processor.
[[nodiscard]] const Kernels& best_kernels();

}  // namespace quip::trellis
