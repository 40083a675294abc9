// Triangular solves and inverses in fp64, in pieces of fixed shape: bits do not depend on threads.
#pragma once

#include "quip/core/matrix.hpp"

namespace quip {

/// Every routine reads a unit lower triangular matrix L+I from the strict lower triangle of
/// `l` [n × n]; what lies on and above its diagonal is not looked at.

/// B ← B (L+I)⁻ᵀ for B [m × n]. Serial.
void solve_right_transposed(MatrixView<const double> l, MatrixView<double> b);
/// B ← B (L+I)⁻¹ for B [m × n]. Serial.
void solve_right(MatrixView<const double> l, MatrixView<double> b);

/// The strict lower triangle of (L+I)⁻¹, into that of `inverse`, which may not be `l`. Parallel.
void invert_unit_lower(MatrixView<const double> l, MatrixView<double> inverse);

}  // namespace quip
