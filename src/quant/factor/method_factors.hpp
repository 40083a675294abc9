// The factors that methods need beyond LDLᵀ of H, and the order in which they take its columns.
#pragma once

#include <span>
#include <vector>

#include "quip/quant/factor/factor.hpp"

namespace quip {

/// Permutes rows and columns of `h` [n × n] by `order`, in place. Parallel.
void permute_symmetric(MatrixView<double> h, const std::vector<index_t>& order);

/// Fills layer.factor, .feedback and .hessian for `options.method`. `h` holds L below its diagonal
/// (as ldl_factor leaves it; overwritten) and H above it, `damped` is the diagonal of H. Returns 0,
/// or the leading minor of a matrix that turned out not to be positive definite.
[[nodiscard]] index_t fill_factors(const HessianMath& math, MatrixView<double> h,
                                   std::span<const double> damped, const LayerOptions& options,
                                   PreparedLayer& layer);

}  // namespace quip
