// The flops of the method's steps, to predict them and to count them. A multiply-add is two flops.
// Steps that grow more slowly than the products are left out: elementwise ones, and the making of
// random factors.
#pragma once

#include "quip/core/matrix.hpp"
#include "quip/quant/options/options.hpp"

namespace quip {

/// Returns the flops of prepare_layer for a Hessian of order n: the transform on both sides,
/// `tries` factorisations, and the method's other factors. Without options.spectra.
[[nodiscard]] double factor_flops(index_t n, const LayerOptions& options, int tries = 1);

/// Returns the flops of rounding one row of n columns and taking its loss; `passes` greedy passes.
[[nodiscard]] double rounding_flops(index_t n, const LayerOptions& options, int passes);

/// Returns those of the loss of an unrounded row, to which that of the rounded one is compared.
[[nodiscard]] double reference_flops(index_t n);

/// Returns those of measuring a row of a layer as it is decoded: its norm, that of the unrounded
/// one and that of their difference.
[[nodiscard]] double measure_flops(index_t n);

/// Returns those of Σ x xᵀ over `tokens` inputs of n channels, lower triangle.
[[nodiscard]] double hessian_flops(index_t n, index_t tokens);

/// Returns those of a sum of m × n products over tokens.
[[nodiscard]] double cross_flops(index_t m, index_t n, index_t tokens);

/// Returns those of a product of `rows` rows with a matrix of order n, or of two sweeps with a
/// triangular one.
[[nodiscard]] double product_flops(index_t rows, index_t n);
/// Returns those of LDLᵀ of a matrix of order n.
[[nodiscard]] double ridge_flops(index_t n);

}  // namespace quip
