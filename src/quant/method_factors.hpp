// What methods need of H beyond its LDLᵀ factor, and the order in which they take its columns.
#pragma once

#include <span>
#include <vector>

#include "quip/quant/factor.hpp"

namespace quip {

/// The order (position → column) in which `options.method` wants H whose diagonal is given; empty:
/// as it is. Loops over positions run from the last to the first, but OPTQ's from the first.
[[nodiscard]] std::vector<index_t> column_order(const LayerOptions& options,
                                                std::span<const double> diagonal);

/// Rows and columns of `h` [n × n] by `order`, in place. Parallel.
void permute_symmetric(MatrixView<double> h, const std::vector<index_t>& order);

/// `values` by `order`.
template <typename T>
void permute(std::vector<T>& values, const std::vector<index_t>& order) {
  std::vector<T> moved(values.size());
  for (std::size_t i = 0; i < order.size(); ++i) {
    moved[i] = values[static_cast<std::size_t>(order[i])];
  }
  values = std::move(moved);
}

/// Fills layer.factor, .feedback and .hessian with what `options.method` needs. `h` holds L below
/// its diagonal (as ldl_factor leaves it; overwritten) and H above it, `damped` is the diagonal of
/// H. Returns 0, or the leading minor of a matrix that turned out not to be positive definite.
[[nodiscard]] index_t fill_factors(MatrixView<double> h, std::span<const double> damped,
                                   const LayerOptions& options, PreparedLayer& layer);

}  // namespace quip
