// Tiles of trellis codes in the EXL3 format: the order of their steps and how states are stored.
#pragma once

#include <cstdint>

#include "quip/core/matrix.hpp"

namespace quip::trellis {

constexpr int tile_side = 16;
constexpr int tile_steps = tile_side * tile_side;

/// The weight of a tile of 16 inputs × 16 outputs that a step codes.
struct TilePlace {
  int input = 0;
  int output = 0;
};

/// Returns the place of step 0 … 255. Steps 32k … 32k + 31 code outputs k and k + 8, four inputs of
/// one and the same four of the other in turn; both take their inputs in the order 0 1 8 9 2 3 10
/// 11 4 5 12 13 6 7 14 15.
[[nodiscard]] constexpr TilePlace place_of(int step) {
  const int quad = step / 8 % 4;
  return {quad * 2 + step % 2 + (step / 2 % 2) * 8, step / 32 + (step / 4 % 2) * 8};
}

/// Copies a tile of weights [16 outputs × 16 inputs] into the order of steps.
void to_steps(MatrixView<const float> tile, float* steps);
/// The inverse.
void from_steps(const float* steps, MatrixView<float> tile);

/// Returns the 16-bit words of a packed tile.
[[nodiscard]] constexpr index_t packed_words(int bits) { return index_t{tile_side} * bits; }

/// Packs the last `bits` bits of each of the 256 states, the stream of which the states are
/// windows: the most significant bit first, the two words of each 32 bits exchanged.
void pack_states(const std::uint16_t* states, int bits, std::uint16_t* packed);
/// The inverse: any words are the states of some tile, whose stream closes to a ring.
void unpack_states(const std::uint16_t* packed, int bits, std::uint16_t* states);

}  // namespace quip::trellis
