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
  std::span<const std::uint16_t> trellis;  ///< [inputs/16 × outputs/16 × packed_words(bits)]
  std::span<const std::uint16_t> suh;      ///< halves [inputs]: sign · scale of each input
  std::span<const std::uint16_t> svh;      ///< halves [outputs]
};

/// Returns W [outputs × inputs], of which each element is the exact value rounded to fp64 and then
/// to fp32. Throws Error if sizes do not fit together. OpenMP inside.
[[nodiscard]] Matrix<float> decode_layer(const TrellisLayer& layer);

}  // namespace quip::trellis
