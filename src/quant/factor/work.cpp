#include "quip/quant/factor/work.hpp"

#include "constrained_feedback.hpp"
#include "scales.hpp"

#include "quip/quant/transform/transform.hpp"

namespace quip {
namespace {

double real(index_t n) { return static_cast<double>(n); }

/// Returns the flops of coding a weight: a multiply-add for each state of the trellis, twice round
/// the tile. With feedback inside it, once for the seam and once with two and a half for a state's
/// distance, weight and choice, and 15 sums of a node that are moved or fed.
double search_flops_per_weight(const LayerOptions& options) {
  constexpr double states = trellis::state_count;
  if (options.trellis_feedback == TrellisFeedback::tile) return 2 * 2 * states;
  return 2 * (3.5 * states + 15 * states / (1 << options.bits));
}

/// Returns the flops of LDLᵀ, or of the inverse of a triangular matrix.
double cubic_flops(index_t n) { return real(n) * real(n) * real(n) / 3; }

}  // namespace

double factor_flops(index_t n, const LayerOptions& options, int tries) {
  const double transforms = 2 * real(n) * transform_flops(options.effective_transform(), n);
  double each = cubic_flops(n);
  const Feedback feedback = options.feedback();
  if (feedback == Feedback::inverse) each += 2 * cubic_flops(n);  // LDLᵀ of J H J, its inverse
  if (feedback == Feedback::constrained) {
    // LDLᵀ, the inverse of L, two triangular products an iteration, the inverse of the solution.
    each += 3 * cubic_flops(n) + constrained_feedback_iterations * 2 * cubic_flops(n);
  }
  const double once = transforms + tries * each;
  return options.scales_outputs() ? candidate_count(n) * once + candidate_flops(n) : once;
}

double rounding_flops(index_t n, const LayerOptions& options, int passes) {
  const double product = real(n) * real(n);  // a row with a triangular matrix
  const Feedback feedback = options.feedback();
  const bool greedy = options.effective_passes() > 0;
  if (options.has_trellis()) {  // losses: measure_flops
    return (feedback == Feedback::none ? 0 : product) + real(n) * search_flops_per_weight(options);
  }
  double products = feedback == Feedback::none ? 0 : 1;
  if (greedy) products += 2.0 * passes;
  // The loss is measured afterwards where no sweep with L or the inverse has added it up.
  if (greedy || feedback == Feedback::none || feedback == Feedback::constrained) ++products;
  if (options.clamp == Clamp::pre) ++products;
  return products * product;
}

double reference_flops(index_t n) { return real(n) * real(n); }

double measure_flops(index_t n) { return 3 * reference_flops(n); }

double cross_flops(index_t m, index_t n, index_t tokens) {
  return 2 * real(tokens) * real(m) * real(n);
}

double product_flops(index_t rows, index_t n) { return 2 * real(rows) * real(n) * real(n); }

double ridge_flops(index_t n) { return cubic_flops(n); }

double hessian_flops(index_t n, index_t tokens) { return real(tokens) * real(n) * real(n + 1); }

}  // namespace quip
