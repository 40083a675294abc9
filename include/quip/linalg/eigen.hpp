// Eigenvalues and eigenvectors of symmetric matrices, by LAPACK.
#pragma once

#include <vector>

#include "quip/core/matrix.hpp"

namespace quip {

/// Replaces the symmetric `h` [n × n] by its eigenvectors, one a row, and returns the eigenvalues,
/// ascending (LAPACK's dsyevd: divide and conquer). Throws Error if it does not converge, or n does
/// not fit in LAPACK's integers.
[[nodiscard]] std::vector<double> symmetric_eigen(MatrixView<double> h);

}  // namespace quip
