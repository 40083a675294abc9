// How much arithmetic the steps of the method are: what is counted as it is done, and predicted
// before. A multiply-add is two flops. Left out is what grows more slowly than the products:
// elementwise steps, and the making of random factors.
#pragma once

#include "quip/core/matrix.hpp"
#include "quip/quant/options/options.hpp"

namespace quip {

/// What prepare_layer does to a Hessian of order n: the transform on both sides, `tries`
/// factorisations, and what else the method makes of H. Without options.spectra.
[[nodiscard]] double factor_flops(index_t n, const LayerOptions& options, int tries = 1);

/// Rounding one row of n columns and taking its loss; `passes` greedy passes.
[[nodiscard]] double rounding_flops(index_t n, const LayerOptions& options, int passes);

/// The loss of an unrounded row, to which that of the rounded one is compared.
[[nodiscard]] double reference_flops(index_t n);

/// Σ x xᵀ over `tokens` inputs of n channels: the lower triangle.
[[nodiscard]] double hessian_flops(index_t n, index_t tokens);

}  // namespace quip
