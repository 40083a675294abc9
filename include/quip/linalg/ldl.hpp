// Blocked LDLᵀ factorisation in fp64, and the inverse of its L. Parallel over OpenMP threads with
// blocks of fixed shape: bits do not depend on their number.
#pragma once

#include <functional>
#include <span>
#include <vector>

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

/// Hands out block column b of L: rows from b·ldl_block on [n − b·ldl_block × its width]. Valid
/// until the next call.
using LowerColumns = std::function<MatrixView<const double>(index_t b)>;
/// Returns those of a matrix whose strict lower triangle holds L.
[[nodiscard]] LowerColumns columns_of(MatrixView<const double> l);

/// Replaces each row x by x H⁻¹, H = (L+I) D (L+I)ᵀ, and returns Σ x H⁻¹ xᵀ of each. Asks for
/// the columns in ascending order, then in descending order. The bits of a row depend on where it
/// lies among solve_rows_unit rows, not on how many there are.
std::vector<double> solve_ldl_rows(const LowerColumns& columns, std::span<const double> d,
                                   MatrixView<double> x);
inline constexpr index_t solve_rows_unit = 32;

}  // namespace quip
