// LDLQ-RG: LDLQ on columns sorted by diag(H), then greedy passes (QuIP, supplement).
#include "greedy_passes.hpp"
#include "linear_feedback.hpp"

namespace quip {
namespace {

class LdlqRg final : public GreedyRounder {
  using GreedyRounder::GreedyRounder;

  void start(const PreparedLayer& layer, const RoundingTile& tile, MatrixView<float> q,
             std::span<double> loss) const override {
    round_with_feedback(layer.factor, tile, q, loss);
  }
};

}  // namespace

std::unique_ptr<Rounder> make_ldlq_rg(int passes, Clamp clamp) {
  return std::make_unique<LdlqRg>(passes, clamp);
}

}  // namespace quip
