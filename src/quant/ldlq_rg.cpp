// LDLQ-RG: LDLQ on columns sorted by diag(H), then greedy passes (QuIP, supplement).
#include "greedy_passes.hpp"
#include "linear_feedback.hpp"

namespace quip {
namespace {

class LdlqRg final : public Rounder {
 public:
  LdlqRg(int passes, Clamp clamp) : passes_(passes), clamp_(clamp) {}

  int round(const PreparedLayer& layer, const RoundingTile& tile, MatrixView<float> q,
            std::span<double> loss) const override {
    round_with_feedback(layer.factor, tile, q, loss);
    const int used = greedy_passes(layer.hessian, tile, passes_, clamp_, q);
    measure_loss(layer.factor, tile, q, loss);
    return used;
  }

 private:
  int passes_;
  Clamp clamp_;
};

}  // namespace

std::unique_ptr<Rounder> make_ldlq_rg(int passes, Clamp clamp) {
  return std::make_unique<LdlqRg>(passes, clamp);
}

}  // namespace quip
