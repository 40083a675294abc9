// LDL-ADMM: the variant of LDLQ with a guarantee on finite grids (QuIP, supplement: Algorithm 5).
#include "greedy_passes.hpp"
#include "linear_feedback.hpp"

namespace quip {
namespace {

class LdlAdmm final : public GreedyRounder {
 public:
  /// Like the authors', its passes clamp every step: the guarantee survives them.
  explicit LdlAdmm(int passes) : GreedyRounder(passes, Clamp::feedback) {}

 private:
  // The feedback is (I+Z)⁻¹ − I with Z's columns bounded (constrained_feedback.hpp), so that
  // target − x, and with it what a clamp costs, stays bounded.
  void start(const PreparedLayer& layer, const RoundingTile& tile, MatrixView<float> q,
             std::span<double> loss) const override {
    round_with_feedback(layer.feedback, tile, q, loss);
  }
};

}  // namespace

std::unique_ptr<Rounder> make_ldl_admm(const LayerOptions& options) {
  return std::make_unique<LdlAdmm>(options.effective_passes());
}

}  // namespace quip
