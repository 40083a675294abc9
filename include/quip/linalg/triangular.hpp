// Inverses of triangular matrices in fp64, in pieces of fixed shape: bits do not depend on threads.
#pragma once

#include "quip/core/matrix.hpp"

namespace quip {

/// Writes the strict lower triangle of (L+I)⁻¹ to that of `inverse`, which may not be `l`. L+I is
/// unit lower triangular: only elements below the diagonal of `l` [n × n] are read. Parallel.
void invert_unit_lower(MatrixView<const double> l, MatrixView<double> inverse);

}  // namespace quip
