#include "quip/quant/code/grid.hpp"

#include <algorithm>
#include <cmath>

#include "quip/core/dtype.hpp"

namespace quip {

RowGrid incoherent_grid(float scale, int bits) {
  const float half = top_level(bits) / 2;
  return {half / scale, half, scale / half};
}

RowGrid minmax_grid(float scale, std::uint8_t zero) {
  return {1.0F / scale, static_cast<float>(zero), scale};
}

float half_step(float step) {
  constexpr float smallest = 0x1p-24F;
  return std::max(from_f16(to_f16(step)), smallest);
}

float short_half_step(float step) { return half_step(from_bf16(to_bf16(half_step(step)))); }

RowGrid fit_minmax(float low, float high, int bits, RoundStep round) {
  if (low == 0.0F && high == 0.0F) {
    low = -1.0F;
    high = 1.0F;
  }
  const float top = top_level(bits);
  const float scale = round((high - low) / top);
  const float zero = std::clamp(std::nearbyint(-low / scale), 0.0F, top);
  return minmax_grid(scale, static_cast<std::uint8_t>(zero));
}

RowGrid fit_symmetric(float low, float high, int bits, RoundStep round) {
  float reach = std::max(-low, high);
  if (reach == 0.0F) reach = 1.0F;
  return minmax_grid(round(2 * reach / top_level(bits)), middle_level(bits));
}

}  // namespace quip
