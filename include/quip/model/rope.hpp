// Rotary position embeddings: the angles, on the host.
#pragma once

#include <span>
#include <vector>

#include "quip/core/matrix.hpp"
#include "quip/model/config.hpp"

namespace quip {

/// Returns the radians per position of each pair of channels that turns in a head of `head_dim`,
/// stretched as `rope` says. Every step is rounded to fp32 as transformers rounds it: at position p
/// an ulp here is p ulps in the angle.
[[nodiscard]] std::vector<float> rope_frequencies(const RopeConfig& rope, index_t head_dim);

/// `magnitude` and the temperature times cosine and sine of position × frequency, each [length ×
/// pairs].
struct RopeTables {
  Matrix<float> cosine;
  Matrix<float> sine;
};
[[nodiscard]] RopeTables rope_tables(std::span<const float> frequencies, index_t length,
                                     float magnitude = 1.0F, const Temperature& temperature = {});

}  // namespace quip
