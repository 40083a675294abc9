#include "quip/quant/code/grid.hpp"

#include <algorithm>
#include <cmath>

namespace quip {

RowGrid incoherent_grid(float scale, int bits) {
  const float half = top_level(bits) / 2;
  return {half / scale, half, scale / half};
}

RowGrid minmax_grid(float scale, std::uint8_t zero) {
  return {1.0F / scale, static_cast<float>(zero), scale};
}

RowGrid fit_minmax(float low, float high, int bits) {
  if (low == 0.0F && high == 0.0F) {
    low = -1.0F;
    high = 1.0F;
  }
  const float top = top_level(bits);
  const float scale = (high - low) / top;
  const float zero = std::clamp(std::nearbyint(-low / scale), 0.0F, top);
  return minmax_grid(scale, static_cast<std::uint8_t>(zero));
}

RowGrid fit_symmetric(float low, float high, int bits) {
  float reach = std::max(-low, high);
  if (reach == 0.0F) reach = 1.0F;
  return minmax_grid(2 * reach / top_level(bits), middle_level(bits));
}

}  // namespace quip
