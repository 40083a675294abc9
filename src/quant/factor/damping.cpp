#include "quip/quant/factor/damping.hpp"

#include <cmath>
#include <numeric>

#include "quip/core/error.hpp"

namespace quip {
namespace {

constexpr int most_attempts = 5;
constexpr double smallest_alpha = 1e-6;  // after --damp 0

}  // namespace

Damping::Damping(std::vector<double> diagonal, double alpha)
    : diagonal_(std::move(diagonal)), damped_(diagonal_.size()), alpha_(alpha) {
  mean_ = std::accumulate(diagonal_.begin(), diagonal_.end(), 0.0) /
          static_cast<double>(diagonal_.size());
  apply();
}

void Damping::apply() {
  lambda_ = alpha_ * mean_;
  for (std::size_t i = 0; i < diagonal_.size(); ++i) damped_[i] = diagonal_[i] + lambda_;
}

void Damping::record(PreparedLayer& layer) const {
  layer.damping = alpha_;
  layer.damping_tries = attempt_;
  for (double& value : layer.added) value += lambda_;
  const auto n = static_cast<double>(diagonal_.size());
  const double trace_h = mean_ * n + lambda_ * n;
  const std::vector<double>& d = layer.factor.diagonal;
  layer.trace_d = std::accumulate(d.begin(), d.end(), 0.0);
  layer.trace_ratio = layer.trace_d / trace_h;
}

void Damping::increase(const std::string& layer, index_t minor) {
  if (attempt_ == most_attempts || !std::isfinite(mean_)) {
    fail(
        "layer {}: the Hessian is not positive definite (leading minor {} of {}, λ = {:.3g} after "
        "{} tries); use more calibration samples or a larger --damp",
        layer, minor, diagonal_.size(), lambda_, attempt_);
  }
  alpha_ = alpha_ > 0 ? 10 * alpha_ : smallest_alpha;
  ++attempt_;
  apply();
}

}  // namespace quip
