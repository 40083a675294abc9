// Blocked LDLᵀ factorisation in fp64, and the inverse of its L. Parallel over OpenMP threads with
// blocks of fixed shape: bits do not depend on their number.
#pragma once

#include <span>

#include "quip/core/matrix.hpp"

namespace quip {

/// Factorises the symmetric matrix whose lower triangle (with diagonal) is in `h` [n × n]:
/// H = (L+I) D (L+I)ᵀ, L strictly lower. On success the strict lower triangle holds L and `d` [n]
/// holds D; the strict upper triangle is not touched, the diagonal is overwritten. Returns 0, or
/// the order of the leading minor that is not positive definite (`h` is then partly overwritten
/// below and on the diagonal).
[[nodiscard]] index_t ldl_factor(MatrixView<double> h, std::span<double> d);

/// Writes the strict lower triangle of (L+I)⁻¹ to that of `inverse`, which may not be `l`. L+I is
/// unit lower triangular: only elements below the diagonal of `l` [n × n] are read.
void invert_unit_lower(MatrixView<const double> l, MatrixView<double> inverse);

/// The width of the factorisation's blocks.
inline constexpr index_t ldl_block = 128;

}  // namespace quip
