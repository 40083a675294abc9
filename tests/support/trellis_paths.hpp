// What tests of searches through a trellis share.
#pragma once

#include <cstdint>
#include <vector>

#include "quip/core/rng.hpp"
#include "quip/quant/trellis/tile.hpp"

namespace quip::trellis {

using States = std::vector<std::uint16_t>;

/// Returns the targets of tiles from a Gaussian source of standard deviation `scale`.
inline std::vector<float> gaussian(index_t tiles, float scale, std::uint64_t key = 1) {
  const RandomStream random(key);
  std::vector<float> x(at(tiles * tile_steps));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = scale * static_cast<float>(random.normal(i));
  return x;
}

/// Returns the states on the path to `node`; winners [step × node] are the symbols that leave the
/// window on the best path to each node.
inline States states_to(int node, int bits, const std::vector<std::uint8_t>& winners) {
  const int nodes = state_count >> bits;
  States states(tile_steps);
  for (int i = tile_steps - 1; i >= 0; --i) {
    const int state = winners[at(index_t{i} * nodes + node)] * nodes + node;
    states[at(i)] = static_cast<std::uint16_t>(state);
    node = state >> bits;
  }
  return states;
}

}  // namespace quip::trellis
