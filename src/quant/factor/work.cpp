#include "quip/quant/work.hpp"

#include <bit>

#include "constrained_feedback.hpp"

#include "quip/quant/hadamard.hpp"
#include "quip/quant/random_orthogonal.hpp"

namespace quip {
namespace {

double real(index_t n) { return static_cast<double>(n); }

/// LDLᵀ, or the inverse of a triangular matrix.
double cubic_flops(index_t n) { return real(n) * real(n) * real(n) / 3; }

}  // namespace

double transform_flops(TransformKind kind, index_t n) {
  switch (kind) {
    case TransformKind::none:
      return 0;
    case TransformKind::kronecker:
    case TransformKind::kronecker_blocked:
    case TransformKind::kronecker_nopermute: {
      const auto [p, q] = balanced_factors(n);
      return 2 * real(n) * real(p + q);
    }
    case TransformKind::hadamard: {
      const HadamardShape shape = hadamard_shape(n);
      const int butterflies = std::countr_zero(static_cast<std::uint64_t>(shape.walsh));
      return real(n) * (butterflies + (shape.order > 1 ? 2 * real(shape.order) : 0));
    }
    case TransformKind::dense:
      return 2 * real(n) * real(n);
  }
  return 0;
}

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

double transform_rows_flops(TransformKind kind, index_t layer_rows, index_t cols, index_t rows) {
  if (layer_rows == 0) return 0;
  // U acts on columns: these rows are their part of it.
  const double share = real(rows) / real(layer_rows);
  return real(cols) * transform_flops(kind, layer_rows) * share +
         real(rows) * transform_flops(kind, cols);
}

double hessian_flops(index_t n, index_t tokens) { return real(tokens) * real(n) * real(n + 1); }

}  // namespace quip
