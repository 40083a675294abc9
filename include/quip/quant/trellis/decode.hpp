// From a layer in the EXL3 format back to weights.
#pragma once

#include <cstdint>
#include <span>

#include "quip/core/matrix.hpp"
#include "quip/quant/trellis/codebook.hpp"

namespace quip::trellis {

/// Both transforms are of blocks of that many inputs or outputs.
constexpr index_t hadamard_side = 128;

/// A stored layer: W [outputs × inputs] = diag(svh) · Q · diag(suh), where Q are the tiles' values
/// with every block of 128 outputs and of 128 inputs multiplied by Sylvester's matrix / √128.
struct TrellisLayer {
  index_t inputs = 0;   ///< a multiple of 128
  index_t outputs = 0;  ///< a multiple of 128
  int bits = 0;
  Codebook codebook = Codebook::mul1;
  std::span<const std::uint8_t> codes;  ///< [outputs/16 × inputs/16 × 2·packed_words(bits)]
  std::span<const std::uint16_t> suh;   ///< halves [inputs]: sign · scale of each input
  std::span<const std::uint16_t> svh;   ///< halves [outputs]
};

/// Writes W's outputs from 128·block on to the 128 rows of `out` [128 × inputs]. Each element is
/// the exact value rounded to fp64 and then to fp32. Sizes have to fit together. Serial.
void decode_outputs(const TrellisLayer& layer, index_t block, MatrixView<float> out);

/// Writes the values of `count` tiles, packed one after the other, in the order of steps: [count ×
/// 256], in the codebook's terms.
void decode_tiles(Codebook codebook, int bits, const std::uint8_t* codes, index_t count,
                  float* values);

}  // namespace quip::trellis
