// Rotary position embeddings: the angles, on the host.
#pragma once

#include <span>
#include <vector>

#include "quip/core/matrix.hpp"
#include "quip/model/config.hpp"

namespace quip {

/// Returns the radians per position of each channel pair, [head_dim/2], stretched as
/// `rope_scaling` says. Every step is rounded to fp32 as transformers rounds it: at position p an
/// ulp here is p ulps in the angle.
[[nodiscard]] std::vector<float> rope_frequencies(const ModelConfig& config);

/// Cosine and sine of position × frequency, each [length × head_dim/2].
struct RopeTables {
  Matrix<float> cosine;
  Matrix<float> sine;
};
[[nodiscard]] RopeTables rope_tables(std::span<const float> frequencies, index_t length);

}  // namespace quip
