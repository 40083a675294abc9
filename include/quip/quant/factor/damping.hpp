// λ: what is added to the diagonal of H until it can be factorised.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "quip/quant/factor/factor.hpp"

namespace quip {

/// λ = α·mean(diag H), then ten times as much, up to four times.
class Damping {
 public:
  /// `diagonal` is that of the undamped H.
  Damping(std::vector<double> diagonal, double alpha);

  /// The diagonal of H + λI.
  [[nodiscard]] const std::vector<double>& damped() const { return damped_; }
  /// H + λI has been factorised, and layer.factor.diagonal is its D: writes down what it took.
  void record(PreparedLayer& layer) const;
  /// Its leading minor of that order is not positive. Throws Error naming `layer`, λ and the minor
  /// if this was the last λ.
  void increase(const std::string& layer, index_t minor);

 private:
  void apply();

  std::vector<double> diagonal_;
  std::vector<double> damped_;
  double mean_ = 0;
  double alpha_ = 0;
  double lambda_ = 0;
  int attempt_ = 1;
};

}  // namespace quip
