// LDLQ: adaptive rounding with the linear feedback of the LDLᵀ factorisation (QuIP, §3.1).
#include "greedy_passes.hpp"
#include "linear_feedback.hpp"

namespace quip {
namespace {

class Ldlq final : public Rounder {
 public:
  int round(const PreparedLayer& layer, const RoundingTile& tile, MatrixView<float> q,
            std::span<double> loss) const override {
    // With H = (L+I) D (L+I)ᵀ the loss is tr((ŵ−target) D (ŵ−target)ᵀ): what the loop adds up.
    round_with_feedback(layer.factor, tile, q, loss);
    return 0;
  }
};

/// The same, then greedy passes: LDLQ-RG on columns sorted by diag(H) (QuIP, supplement).
class LdlqThenGreedy final : public GreedyRounder {
  using GreedyRounder::GreedyRounder;

  void start(const PreparedLayer& layer, const RoundingTile& tile, MatrixView<float> q,
             std::span<double> loss) const override {
    round_with_feedback(layer.factor, tile, q, loss);
  }
};

}  // namespace

std::unique_ptr<Rounder> make_ldlq(const LayerOptions& options) {
  const int passes = options.effective_passes();
  if (passes == 0) return std::make_unique<Ldlq>();
  return std::make_unique<LdlqThenGreedy>(passes, options.clamp);
}

}  // namespace quip
