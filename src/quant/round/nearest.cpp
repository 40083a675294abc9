// Nearest rounding: what LDLQ is without feedback.
#include "column_kernels.hpp"

namespace quip {
namespace {

class Nearest final : public Rounder {
 public:
  int round(const PreparedLayer& layer, const RoundingTile& tile, MatrixView<float> q,
            std::span<double> loss) const override {
    for (index_t k = 0; k < q.rows; ++k) {
      const float* offset = tile.offset.row(k);
      const float* inverse = tile.inverse.row(k);
      for (index_t r = 0; r < q.cols; ++r) {  // ŵ = step · clamp(Q(x / step), 0, top)
        q(k, r) = to_level(tile.x(k, r) * inverse[r], offset[r], 0.0F, tile.top);
      }
    }
    measure_loss(layer.factor, tile, q, loss);
    return 0;
  }
};

}  // namespace

std::unique_ptr<Rounder> make_nearest(const LayerOptions& /*options*/) {
  return std::make_unique<Nearest>();
}

}  // namespace quip
