// How a block of threads shares out the search for the states of trellis codes. Free of CUDA, so
// that plans know the memory it takes.
#pragma once

#include "quip/core/matrix.hpp"
#include "quip/quant/trellis/codebook.hpp"
#include "quip/quant/trellis/tile.hpp"

namespace quip::cuda {

inline constexpr int search_threads = 512;
/// Pairs of values of states that each thread keeps in registers.
inline constexpr int search_pairs = trellis::state_count / 2 / search_threads;
/// As many blocks as there are processors in the largest device so far search side by side.
inline constexpr index_t most_search_blocks = 160;

/// Up to this many bits costs are 16-bit integers, beyond it 32-bit ones.
inline constexpr int narrow_search_bits = 4;

/// Returns the most tiles that a block searches side by side: they share the work of unpacking
/// values and the wait for the memory, and their costs have to fit in shared memory.
constexpr int most_search_tiles(int bits) { return bits == 1 || bits > narrow_search_bits ? 1 : 2; }

/// Returns how many steps lie between two steps whose costs are kept in device memory: no more than
/// 256 paths lead over them to a node. A power of two.
constexpr int kept_interval(int bits) {
  constexpr int steps[] = {0, 8, 4, 2};
  return bits < narrow_search_bits ? steps[bits] : 1;
}

/// Returns the device memory that a block keeps costs in.
constexpr index_t search_scratch_bytes(int bits) {
  const index_t cost_bytes = bits <= narrow_search_bits ? 2 : 4;
  const index_t rows = trellis::tile_steps / kept_interval(bits) + 1;
  return most_search_tiles(bits) * rows * (trellis::state_count >> bits) * cost_bytes;
}

}  // namespace quip::cuda
