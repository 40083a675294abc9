// Scalar grids: 2^bits equally spaced levels per row.
#pragma once

#include <cstdint>

#include "quip/core/matrix.hpp"

namespace quip {

/// Grid coordinate g of a weight w: g = w·inverse + offset; level q stands for (q − offset)·step.
struct RowGrid {
  float inverse = 1;
  float offset = 0;
  float step = 1;
};

/// Returns the highest level, 2^bits − 1.
[[nodiscard]] inline float top_level(int bits) { return static_cast<float>((1 << bits) - 1); }

/// Returns the zero point of a symmetric minmax grid: 2^(bits−1), so that 0 is a level.
[[nodiscard]] inline std::uint8_t middle_level(int bits) {
  return static_cast<std::uint8_t>(1 << (bits - 1));
}

/// Returns QuIP's grid: w ↦ (w/scale + 1)/2 · top, symmetric about 0, `scale` its half width.
[[nodiscard]] RowGrid incoherent_grid(float scale, int bits);

/// Returns the asymmetric grid of OPTQ from its stored step and offset.
[[nodiscard]] RowGrid minmax_grid(float scale, std::uint8_t zero);

/// Rounds the step of a grid to what it is stored in.
using RoundStep = float (*)(float step);
[[nodiscard]] inline float keep_step(float step) { return step; }
/// Rounds to an IEEE half; too small a step becomes the smallest half.
[[nodiscard]] float half_step(float step);
/// Rounds to a half of 8 significant bits, which a bfloat16 holds, too.
[[nodiscard]] float short_half_step(float step);

/// Fits a grid to a row's range (low ≤ 0 ≤ high); an all-zero row gets [−1, 1].
[[nodiscard]] RowGrid fit_minmax(float low, float high, int bits, RoundStep round = keep_step);
/// Fits one to the range widened to be symmetric about 0, with middle_level as zero point: as in
/// OPTQ, the highest level falls short of the range by one step.
[[nodiscard]] RowGrid fit_symmetric(float low, float high, int bits, RoundStep round = keep_step);

}  // namespace quip
