// The diagonal matrices by which a layer is scaled before it is transformed.
#pragma once

#include <vector>

#include "quip/core/matrix.hpp"
#include "quip/quant/options/options.hpp"

namespace quip {

/// Returns Σᵢ (Wᵢⱼ/tᵢ)² for every column j, rows added in order; t empty: 1 throughout.
[[nodiscard]] std::vector<double> column_energies(MatrixView<const float> w,
                                                  const std::vector<float>& t);

/// Returns the factor that makes the largest element of H, whose diagonal is given, 1.
[[nodiscard]] double unit_of(const std::vector<double>& diagonal);

/// Sets D̃ⱼ = (Hⱼⱼ / (WᵀW)ⱼⱼ)^¼ with H scaled to max|H| = 1; returns that scale. Column j of W D̃ has
/// the energy √(Hⱼⱼ (WᵀW)ⱼⱼ), and what rounding spreads over the columns comes back divided by D̃ⱼ.
/// An input of which H says (almost) nothing gets the D̃ⱼ of the median energy: its error is then as
/// large beside its weights as anyone's, instead of beyond all bounds.
double choose_rescale(const std::vector<double>& diagonal, const std::vector<double>& energy,
                      std::vector<float>& rescale);

/// W is quantized as diag(1/output) W diag(input).
struct LayerScales {
  std::vector<float> input;   ///< D̃ [n]
  std::vector<float> output;  ///< [m]
};

/// Returns the number of candidates for a Hessian of order n, and the flops that go into them.
[[nodiscard]] int candidate_count(index_t n);
[[nodiscard]] double candidate_flops(index_t n);

/// Returns scales to choose from for the least loss of LDLQ. Output scales are the roots of the
/// norms of rows. Input scales are D̃ and, where the symmetric `hessian` is given (else empty), 1
/// over the rms of columns, which is best for det H', and unless H is large D̃ refined for tr H'^½.
///
/// Output scales are IEEE halves; for a trellis, as the EXL3 format stores them, so are 1 over
/// input scales, and diag(1/output) W diag(input) has the rms that suits the codebook. Where the
/// transform mixes blocks of 128 × 128, all have the same rms.
[[nodiscard]] std::vector<LayerScales> candidate_scales(MatrixView<const float> weights,
                                                        const std::vector<double>& diagonal,
                                                        MatrixView<const double> hessian,
                                                        const LayerOptions& options);

}  // namespace quip
