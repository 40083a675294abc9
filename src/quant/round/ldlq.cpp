// LDLQ: adaptive rounding with the linear feedback of the LDLᵀ factorisation (QuIP, §3.1).
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

}  // namespace

std::unique_ptr<Rounder> make_ldlq() { return std::make_unique<Ldlq>(); }

}  // namespace quip
