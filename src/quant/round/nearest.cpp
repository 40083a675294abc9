// Nearest rounding: what LDLQ is without feedback.
#include "column_kernels.hpp"

namespace quip {
namespace {

class Nearest final : public Rounder {
 public:
  void start(RoundingTile& tile) const override {
    for (index_t k = 0; k < tile.q.rows(); ++k) {
      const float* offset = tile.offset.row(k);
      const float* inverse = tile.inverse.row(k);
      for (index_t r = 0; r < tile.q.cols(); ++r) {  // ŵ = step · clamp(Q(x / step), 0, top)
        tile.q(k, r) = to_level(tile.x(k, r) * inverse[r], offset[r], 0.0F, tile.top);
      }
    }
  }
};

}  // namespace

std::unique_ptr<Rounder> make_nearest() { return std::make_unique<Nearest>(); }

}  // namespace quip
