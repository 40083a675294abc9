#include "dither.hpp"

#include "quip/core/rng.hpp"

namespace quip {

void fill_dither(const PreparedLayer& layer, std::span<const index_t> rows,
                 MatrixView<float> offset) {
  const RandomStream random(layer.seed_rounding);
  const index_t n = offset.rows;
  for (index_t k = 0; k < n; ++k) {
    const index_t column = layer.order.empty() ? k : layer.order[at(k)];
    for (index_t r = 0; r < offset.cols; ++r) {
      if (r >= std::ssize(rows)) {
        offset(k, r) = 0.5F;
        continue;
      }
      const auto index = static_cast<std::uint64_t>(rows[at(r)] * n + column);
      // 24 bits are exact in fp32: never 1.
      offset(k, r) = static_cast<float>(random.bits(index) >> 40) * 0x1.0p-24F;
    }
  }
}

}  // namespace quip
