// From a Hessian to its factor: rescaling, transform, damping, LDLᵀ.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "quip/core/matrix.hpp"
#include "quip/quant/factor/layer_statistics.hpp"
#include "quip/quant/factor/lower_panels.hpp"
#include "quip/quant/options/options.hpp"
#include "quip/quant/transform/transform.hpp"

namespace quip {

/// The input for rounding the rows of one layer; small but for the matrices made of H. Matrices,
/// and `added`, are in the order in which the method takes the columns.
struct PreparedLayer {
  LowerPanels factor;               ///< (L, D) of the damped H
  LowerPanels feedback;             ///< optq: (L', 1/D') of H⁻¹; ldl-admm: its L; else empty
  LowerPanels hessian;              ///< the damped H, for greedy passes; else empty
  std::vector<index_t> order;       ///< [n]: the column at each position; empty: the same
  std::vector<float> rescale;       ///< D̃ [n], or empty
  std::vector<float> output_scale;  ///< [m]: what W's rows are divided by before U, or empty
  std::vector<std::uint8_t> dead;   ///< [n]: inputs whose weights are set to zero, or empty
  std::vector<double> added;        ///< [n]: damping of each diagonal element
  double weight_rms = 0;            ///< rms of W·D̃ over output scales: transforms keep it
  double loss_unit = 1;    ///< proxy loss in H's own units = loss_unit × the one computed here
  double trace_d = 0;      ///< tr(D)
  double trace_ratio = 0;  ///< tr(D)/tr(H)
  double weight_incoherence = 0;  ///< μ_W of the weights as they came
  Spectra spectra;                ///< if options.spectra
  double damping = 0;             ///< λ/mean(diag H)
  int damping_tries = 1;
  index_t dead_channels = 0;
  std::uint64_t seed_u = 0;
  std::uint64_t seed_v = 0;
  std::uint64_t seed_rounding = 0;  ///< seed of stochastic rounding
};

/// Calls visit(value) for each of a prepared layer's scalars: all that is not as long as a row.
template <typename Visit, typename Layer>
void visit_scalars(const Visit& visit, Layer& layer) {
  visit(layer.weight_rms);
  visit(layer.loss_unit);
  visit(layer.trace_d);
  visit(layer.trace_ratio);
  visit(layer.weight_incoherence);
  visit(layer.spectra);
  visit(layer.damping);
  visit(layer.damping_tries);
  visit(layer.dead_channels);
  visit(layer.seed_u);
  visit(layer.seed_v);
  visit(layer.seed_rounding);
}

/// Returns the order (position → column) in which `options.method` wants H whose diagonal is given;
/// empty: as it is. Loops over positions run from the last to the first, but OPTQ's from the first.
[[nodiscard]] std::vector<index_t> column_order(const LayerOptions& options,
                                                std::span<const double> diagonal);
/// Puts `values` into `order`; empty: leaves them.
void reorder(std::vector<double>& values, const std::vector<index_t>& order);

/// The share of I that is added to H before the transform (QuIP, supplement).
inline constexpr double identity_share = 1e-2;

/// A layer as known from the diagonal of H, and the transform of H: V (transform_unit ·
/// rescale_unit · D̃⁻¹ H D̃⁻¹ + identity · I) Vᵀ, then 1 on the diagonal of dead inputs. Where all
/// inputs are dead it is I, and the loss that of W itself.
struct OutlinedLayer {
  PreparedLayer layer;  ///< without factors, order and damping
  double rescale_unit = 1;
  double transform_unit = 1;
  double identity = 0;
};

struct LayerScales;

/// Outlines a layer; `diagonal` [n] is that of H. `scales` are those of a layer that has output
/// scales; null: the best that the diagonal tells.
[[nodiscard]] OutlinedLayer outline_layer(MatrixView<const float> weights,
                                          std::vector<double> diagonal, const LayerOptions& options,
                                          const std::string& layer,
                                          const LayerScales* scales = nullptr);

/// Makes a layer that was prepared for several with one input, their rows one after the other, that
/// of one of them: `output_scale` are the scales of its rows (empty if there are none), `weights`
/// is padded as they are. Factor, D̃ and V are everyone's.
void take_member(PreparedLayer& shared, std::span<const float> output_scale,
                 MatrixView<const float> weights, const LayerOptions& options,
                 const std::string& layer);

/// The steps of prepare_layer that cost n³ or n²·√n flops, on the host; a GPU may do them instead.
class HessianMath {
 public:
  HessianMath() = default;
  HessianMath(const HessianMath&) = delete;
  HessianMath& operator=(const HessianMath&) = delete;
  virtual ~HessianMath() = default;

  /// Transforms all columns, X ← V X.
  virtual void transform(const Transform& v, MatrixView<double> x) const;
  /// Does the work of quip::ldl_factor.
  [[nodiscard]] virtual index_t ldl_factor(MatrixView<double> h, std::span<double> d) const;
};

/// Prepares one layer (QuIP algorithm 1, lines 1–6): D̃, V H Vᵀ, damping, column order, LDLᵀ and
/// the other needs of `options.method`. `hessian` [n × n] has its lower triangle filled and is used
/// up. `weights` [m × n] is only read. Both are padded with zeros to what the transform asks for;
/// the result is that of the padded layer. Of several candidates for the scales
/// (quant/factor/scales) it keeps the one with the least loss to be expected. A Hessian that is not
/// positive definite is tried again with ten times the damping, up to four times; then Error names
/// `layer`, λ and the leading minor.
[[nodiscard]] PreparedLayer prepare_layer(MatrixView<const float> weights, Matrix<double> hessian,
                                          const LayerOptions& options, const std::string& layer,
                                          const HessianMath& math = HessianMath());

}  // namespace quip
