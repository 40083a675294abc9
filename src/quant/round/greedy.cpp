// Greedy: coordinate descent from the unrounded weights (QuIP, supplement: Algorithm 4).
#include "greedy_passes.hpp"

namespace quip {
namespace {

class Greedy final : public GreedyRounder {
  using GreedyRounder::GreedyRounder;

  // ŵ = x: s = 0, and the first pass rounds every column once.
  void start(const PreparedLayer& /*layer*/, const RoundingTile& tile, MatrixView<float> q,
             std::span<double> /*loss*/) const override {
    for (index_t k = 0; k < q.rows; ++k) {
      const float* inverse = tile.inverse.row(k);
      for (index_t r = 0; r < q.cols; ++r) q(k, r) = tile.x(k, r) * inverse[r];
    }
  }
};

}  // namespace

std::unique_ptr<Rounder> make_greedy(const LayerOptions& options) {
  return std::make_unique<Greedy>(options.effective_passes(), options.clamp);
}

}  // namespace quip
