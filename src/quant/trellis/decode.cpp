#include "quip/quant/trellis/decode.hpp"

#include <memory>

#include "quip/core/dtype.hpp"
#include "quip/core/error.hpp"
#include "quip/quant/trellis/tile.hpp"

namespace quip::trellis {
namespace {

constexpr index_t side = hadamard_side;

/// A block of side × side values, in fp64: sums of 128 · 128 halves are exact.
struct Block {
  double at[side][side];
};

void check(const TrellisLayer& layer) {
  if (layer.bits < 1 || layer.bits > max_bits) {
    fail("a trellis code has 1 to {} bits, not {}", max_bits, layer.bits);
  }
  if (layer.inputs <= 0 || layer.outputs <= 0 || layer.inputs % side != 0 ||
      layer.outputs % side != 0) {
    fail("a layer in the EXL3 format has multiples of {} inputs and outputs, not {} and {}", side,
         layer.inputs, layer.outputs);
  }
  const index_t words =
      (layer.inputs / tile_side) * (layer.outputs / tile_side) * packed_words(layer.bits);
  if (std::ssize(layer.trellis) != words) {
    fail("a trellis of {} × {} weights at {} bits has {} words, not {}", layer.outputs,
         layer.inputs, layer.bits, words, layer.trellis.size());
  }
  if (std::ssize(layer.suh) != layer.inputs || std::ssize(layer.svh) != layer.outputs) {
    fail("suh and svh have {} and {} elements; the layer has {} inputs and {} outputs",
         layer.suh.size(), layer.svh.size(), layer.inputs, layer.outputs);
  }
}

/// Fills block.at[output][input] with the values of the 8 × 8 tiles from these on.
void read_tiles(const TrellisLayer& layer, index_t first_output, index_t first_input,
                Block& block) {
  const auto values = codebook_values(layer.codebook);
  const index_t words = packed_words(layer.bits);
  for (index_t i = 0; i < side; i += tile_side) {
    for (index_t o = 0; o < side; o += tile_side) {
      const index_t tile = (first_input + i) / tile_side * (layer.outputs / tile_side) +
                           (first_output + o) / tile_side;
      std::uint16_t states[tile_steps];
      unpack_states(layer.trellis.data() + tile * words, layer.bits, states);
      for (int step = 0; step < tile_steps; ++step) {
        const TilePlace place = place_of(step);
        block.at[o + place.output][i + place.input] = double{values[states[step]]};
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

Matrix<float> decode_layer(const TrellisLayer& layer) {
  check(layer);
  Matrix<float> weights(layer.outputs, layer.inputs);
  const index_t across = layer.inputs / side;
  const index_t blocks = across * (layer.outputs / side);
#pragma omp parallel
  {
    const auto block = std::make_unique<Block>();
#pragma omp for schedule(static)
    for (index_t b = 0; b < blocks; ++b) {
      const index_t first_output = b / across * side;
      const index_t first_input = b % across * side;
      read_tiles(layer, first_output, first_input, *block);
      transform(*block);
      for (index_t o = 0; o < side; ++o) {
        const double scale = double{from_f16(layer.svh[at(first_output + o)])} / side;
        float* const row = weights.row(first_output + o) + first_input;
        for (index_t i = 0; i < side; ++i) {
          const double factor = scale * double{from_f16(layer.suh[at(first_input + i)])};
          row[i] = static_cast<float>(factor * block->at[o][i]);
        }
      }
    }
  }
  return weights;
}

}  // namespace quip::trellis
