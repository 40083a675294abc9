#include "quip/quant/factor/work.hpp"

#include "constrained_feedback.hpp"

#include "quip/quant/transform/transform.hpp"

namespace quip {
namespace {

double real(index_t n) { return static_cast<double>(n); }

/// Returns the flops of LDLᵀ, or of the inverse of a triangular matrix.
double cubic_flops(index_t n) { return real(n) * real(n) * real(n) / 3; }

}  // namespace

double factor_flops(index_t n, const LayerOptions& options, int tries) {
  const double transforms = 2 * real(n) * transform_flops(options.effective_transform(), n);
  double each = cubic_flops(n);
  if (options.method == Method::optq) each += 2 * cubic_flops(n);  // LDLᵀ of J H J, its inverse
  if (options.method == Method::ldl_admm) {
    // LDLᵀ, the inverse of L, two triangular products an iteration, the inverse of the solution.
    each += 3 * cubic_flops(n) + constrained_feedback_iterations * 2 * cubic_flops(n);
  }
  return transforms + tries * each;
}

double rounding_flops(index_t n, const LayerOptions& options, int passes) {
  const double product = real(n) * real(n);  // a row with a triangular matrix
  double products = 1;                       // the feedback, or for nearest the loss
  const bool greedy = takes_passes(options.method) && options.effective_passes() > 0;
  if (options.method == Method::greedy) products = 0;
  if (greedy) products += 2.0 * passes;
  // The methods that end in greedy passes, or may, measure the loss afterwards.
  if (greedy || options.method == Method::greedy || options.method == Method::ldl_admm) ++products;
  if (options.clamp == Clamp::pre) ++products;
  return products * product;
}

double reference_flops(index_t n) { return real(n) * real(n); }

double hessian_flops(index_t n, index_t tokens) { return real(tokens) * real(n) * real(n + 1); }

}  // namespace quip
