// Nearest rounding: what LDLQ is without feedback.
#include <algorithm>
#include <cmath>

#include "quip/quant/rounder.hpp"

namespace quip {
namespace {

class Nearest final : public Rounder {
 public:
  void round(const LdlFactor& factor, float top, MatrixView<const float> w, MatrixView<float> q,
             std::span<double> loss) const override {
    Matrix<float> error(w.rows, w.cols);
    for (index_t k = 0; k < w.rows; ++k) {
      for (index_t r = 0; r < w.cols; ++r) {
        const float rounded = std::min(std::max(std::floor(w(k, r) + 0.5F), 0.0F), top);
        q(k, r) = rounded;
        error(k, r) = rounded - w(k, r);
      }
    }
    std::fill(loss.begin(), loss.end(), 0.0);
    add_hessian_norm(factor, error.view(), loss);
  }
};

}  // namespace

std::unique_ptr<Rounder> make_nearest() { return std::make_unique<Nearest>(); }

}  // namespace quip
