// Statistics of the eigenvectors and eigenvalues of a Hessian (QuIP, tables on H).
#pragma once

#include <string>

#include "quip/core/matrix.hpp"

namespace quip {

/// The spectrum of H in three numbers; shares are of n. Ranks send it as it is.
struct Spectrum {
  double incoherence = 0;  ///< μ_H = √n · max|Qᵢⱼ| over the eigenvectors: 1 (even) to √n
  double rank = 0;         ///< share of eigenvalues above rounding error (n·ε·λ_max)
  double approximate_rank = 0;  ///< share of eigenvalues above 0.01·λ_max
};

/// Decomposes the symmetric matrix `h` [n × n] less `shift`·I. About 9n³ flops in
/// fp64, and two more matrices of that size. Throws Error naming `layer` if LAPACK gives up.
[[nodiscard]] Spectrum spectrum_of(MatrixView<const double> h, double shift,
                                   const std::string& layer);

}  // namespace quip
