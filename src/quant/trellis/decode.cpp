#include "quip/quant/trellis/decode.hpp"

#include <cstring>
#include <memory>

#include "quip/core/dtype.hpp"
#include "quip/quant/trellis/tile.hpp"

namespace quip::trellis {
namespace {

constexpr index_t side = hadamard_side;

/// A block of side × side values, in fp64: sums of 128 · 128 halves are exact.
struct Block {
  double at[side][side];
};

/// Fills block.at[output][input] with the values of the 8 × 8 tiles from these on.
void read_tiles(const TrellisLayer& layer, index_t first_output, index_t first_input,
                Block& block) {
  const index_t bytes = 2 * packed_words(layer.bits);
  for (index_t o = 0; o < side; o += tile_side) {
    const index_t tile =
        (first_output + o) / tile_side * (layer.inputs / tile_side) + first_input / tile_side;
    float values[side / tile_side][tile_steps];
    decode_tiles(layer.codebook, layer.bits, layer.codes.data() + tile * bytes, side / tile_side,
                 values[0]);
    for (index_t t = 0; t < side / tile_side; ++t) {
      for (int step = 0; step < tile_steps; ++step) {
        const TilePlace place = place_of(step);
        block.at[o + place.output][t * tile_side + place.input] = double{values[t][step]};
      }
    }
  }
}

/// Multiplies rows and columns by Sylvester's matrix, without its factor.
void transform(Block& block) {
  for (index_t stride = 1; stride < side; stride *= 2) {
    for (index_t i = 0; i < side; ++i) {
      if ((i & stride) != 0) continue;
      for (index_t j = 0; j < side; ++j) {
        const double sum = block.at[i][j] + block.at[i + stride][j];
        block.at[i + stride][j] = block.at[i][j] - block.at[i + stride][j];
        block.at[i][j] = sum;
      }
    }
  }
  for (auto& row : block.at) {
    for (index_t stride = 1; stride < side; stride *= 2) {
      for (index_t j = 0; j < side; ++j) {
        if ((j & stride) != 0) continue;
        const double sum = row[j] + row[j + stride];
        row[j + stride] = row[j] - row[j + stride];
        row[j] = sum;
      }
    }
  }
}

}  // namespace

void decode_tiles(Codebook codebook, int bits, const std::uint8_t* codes, index_t count,
                  float* values) {
  const auto known = codebook_values(codebook);
  const index_t words = packed_words(bits);
  std::uint16_t packed[tile_side * max_bits];
  std::uint16_t states[tile_steps];
  for (index_t tile = 0; tile < count; ++tile) {
    std::memcpy(packed, codes + 2 * words * tile, at(2 * words));
    unpack_states(packed, bits, states);
    for (const std::uint16_t state : states) *values++ = known[state];
  }
}

void decode_outputs(const TrellisLayer& layer, index_t block_of_outputs, MatrixView<float> out) {
  const auto block = std::make_unique<Block>();
  const index_t first_output = block_of_outputs * side;
  for (index_t first_input = 0; first_input < layer.inputs; first_input += side) {
    read_tiles(layer, first_output, first_input, *block);
    transform(*block);
    for (index_t o = 0; o < side; ++o) {
      const double scale = double{from_f16(layer.svh[at(first_output + o)])} / side;
      float* const row = out.row(o) + first_input;
      for (index_t i = 0; i < side; ++i) {
        const double factor = scale * double{from_f16(layer.suh[at(first_input + i)])};
        row[i] = static_cast<float>(factor * block->at[o][i]);
      }
    }
  }
}

}  // namespace quip::trellis
