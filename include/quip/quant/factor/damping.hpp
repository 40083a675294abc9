// The damping λ, added to the diagonal of H until it can be factorised.
#pragma once

#include <string>
#include <vector>

#include "quip/quant/factor/factor.hpp"

namespace quip {

/// Tries λ = α·mean(diag H), then ten times as much, up to four times.
class Damping {
 public:
  /// Takes the diagonal of the undamped H.
  Damping(std::vector<double> diagonal, double alpha);

  /// Returns the diagonal of H + λI.
  [[nodiscard]] const std::vector<double>& damped() const { return damped_; }
  /// Records the damping in `layer`, whose factor's diagonal is the D of H + λI.
  void record(PreparedLayer& layer) const;
  /// Takes the next λ, because the leading minor of that order is not positive. Throws Error naming
  /// `layer`, λ and the minor if this was the last one.
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
