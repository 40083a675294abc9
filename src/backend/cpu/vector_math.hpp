// An exponential that vectorises, which std::exp does not without -ffast-math.
#pragma once

#include <bit>
#include <cstdint>

#include "core/simd.hpp"

namespace quip::cpu {

/// Returns eˣ to 2 ulp for every float: subnormal results are rounded correctly, beyond the range
/// it is 0 or infinite, NaN stays NaN.
///
/// eˣ = 2ⁿ·eʳ with n = round(x / ln 2), |r| ≤ ln 2 / 2; eʳ = 1 + r + r²·P(r), with P the minimax
/// polynomial of degree 4 for the relative error of eʳ (3·10⁻⁹, a twentieth of an ulp).
QUIP_INLINE float exponential(float x) {
  // Clamps where the result is 0 or infinite already; written so that a NaN passes.
  x = x < -104.0F ? -104.0F : x;
  x = x > 89.0F ? 89.0F : x;

  // Adding 1.5·2²³ leaves the nearest integer in the low bits.
  constexpr float round = 12582912.0F;
  const float shifted = x * 1.44269504F + round;
  const float n = shifted - round;
  const std::int32_t exponent =
      std::bit_cast<std::int32_t>(shifted) - std::bit_cast<std::int32_t>(round);

  // ln 2 in two parts, the first short enough for n·ln2 to be exact without FMA.
  float r = x - n * 0.693145751953125F;
  r = r - n * 1.42860682e-6F;
  float p = 1.381453999e-3F;
  p = p * r + 8.368745116e-3F;
  p = p * r + 4.166839079e-2F;
  p = p * r + 1.666652040e-1F;
  p = p * r + 4.999999343e-1F;
  const float power = 1.0F + (r + r * r * p);

  // Two factors, because 2ⁿ itself may overflow or be subnormal where eˣ is neither.
  const std::int32_t half = exponent >> 1;
  const float first = std::bit_cast<float>((half + 127) << 23);
  const float second = std::bit_cast<float>((exponent - half + 127) << 23);
  return power * first * second;
}

}  // namespace quip::cpu
