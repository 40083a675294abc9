// LDL-ADMM: the variant of LDLQ with a guarantee on finite grids (QuIP, supplement: Algorithm 5).
#include "greedy_passes.hpp"
#include "linear_feedback.hpp"

namespace quip {
namespace {

class LdlAdmm final : public Rounder {
 public:
  explicit LdlAdmm(int passes) : passes_(passes) {}

  int round(const PreparedLayer& layer, const RoundingTile& tile, MatrixView<float> q,
            std::span<double> loss) const override {
    // The feedback is (I+Z)⁻¹ − I with Z's columns bounded (constrained_feedback.hpp), so that
    // target − x, and with it what a clamp costs, stays bounded.
    round_with_feedback(layer.feedback, tile, q, loss);
    // Like the authors', these passes clamp every step: the guarantee survives them.
    const int used =
        passes_ > 0 ? greedy_passes(layer.hessian, tile, passes_, Clamp::feedback, q) : 0;
    measure_loss(layer.factor, tile, q, loss);
    return used;
  }

 private:
  int passes_;
};

}  // namespace

std::unique_ptr<Rounder> make_ldl_admm(int passes) { return std::make_unique<LdlAdmm>(passes); }

}  // namespace quip
