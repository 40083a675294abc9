// Inverses of triangular matrices in fp64, in pieces of fixed shape: bits do not depend on threads.
#pragma once

#include "quip/core/matrix.hpp"

namespace quip {

/// The strict lower triangle of (L+I)⁻¹, into that of `inverse`, which may not be `l`. L+I is unit
/// lower triangular: what lies on and above the diagonal of `l` [n × n] is not looked at. Parallel.
void invert_unit_lower(MatrixView<const double> l, MatrixView<double> inverse);

}  // namespace quip
