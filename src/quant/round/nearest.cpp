// Nearest rounding: what LDLQ is without feedback.
#include "quip/quant/round/rounder.hpp"

namespace quip {
namespace {

class Nearest final : public Rounder {
 public:
  [[nodiscard]] bool portable() const override { return true; }
  void start(RoundingTile& tile) const override {
    tile.math->round_to_nearest(tile.x, tile.grid, tile.offset, tile.top, tile.q);
  }
};

}  // namespace

std::unique_ptr<Rounder> make_nearest(const LayerOptions& options) {
  if (options.has_trellis()) return make_trellis_rounder(options);
  return std::make_unique<Nearest>();
}

}  // namespace quip
