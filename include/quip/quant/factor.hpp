// From a Hessian to what rounding needs: rescaling, transform, damping, LDLᵀ.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "quip/core/matrix.hpp"
#include "quip/quant/options.hpp"
#include "quip/quant/transform.hpp"

namespace quip {

/// H = (L+I) D (L+I)ᵀ with L in fp32, kept as block columns of fixed width: block b holds rows
/// b·block … n-1 of its columns, row-major, so the feedback of one block is one product.
struct LdlFactor {
  static constexpr index_t block = 128;

  index_t n = 0;
  Buffer<float> panels;
  std::vector<double> d;  ///< D

  LdlFactor() = default;
  explicit LdlFactor(index_t order);
  [[nodiscard]] index_t blocks() const { return (n + block - 1) / block; }
  [[nodiscard]] index_t first_column(index_t b) const { return b * block; }
  [[nodiscard]] index_t width(index_t b) const;
  /// Element (i, j) of the panel is L(first_column + i, first_column + j).
  [[nodiscard]] MatrixView<float> panel(index_t b) const;
  [[nodiscard]] index_t panel_offset(index_t b) const;
};

/// Everything that rounds the rows of one layer; small but for the factor.
struct PreparedLayer {
  LdlFactor factor;
  std::vector<float> rescale;      ///< D̃ [n], or empty
  std::vector<std::uint8_t> dead;  ///< [n]: inputs whose weights are set to zero, or empty
  std::vector<double> added;       ///< [n]: what damping added to each diagonal element
  double weight_rms = 0;           ///< of W·D̃: orthogonal transforms do not change it
  double loss_unit = 1;    ///< proxy loss in H's own units = loss_unit × the one computed here
  double trace_ratio = 0;  ///< tr(D)/tr(H)
  double damping = 0;      ///< λ/mean(diag H)
  int damping_tries = 1;
  index_t dead_channels = 0;
  std::uint64_t seed_u = 0;
  std::uint64_t seed_v = 0;
};

/// D̃, V H Vᵀ, damping and LDLᵀ of one layer (QuIP algorithm 1, lines 1–6). `hessian` [n × n] has
/// its lower triangle filled and is used up. `weights` [m × n] is only read. A Hessian that is
/// not positive definite is tried again with ten times the damping, up to four times; then
/// Error names `layer`, λ and the leading minor.
[[nodiscard]] PreparedLayer prepare_layer(MatrixView<const float> weights, Matrix<double> hessian,
                                          const LayerOptions& options, const std::string& layer);

}  // namespace quip
