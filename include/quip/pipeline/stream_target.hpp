// The weights that layers are rounded to when they make up for what was lost before them.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "quip/core/phases.hpp"
#include "quip/pipeline/capture.hpp"
#include "quip/pipeline/hidden_states.hpp"
#include "quip/pipeline/narrow_layers.hpp"
#include "quip/pipeline/quantize.hpp"
#include "quip/pipeline/wide_layer.hpp"

namespace quip {

/// Hidden states of the same tokens: of the model as it is quantized so far, and as it came. Only
/// between a block's other layers and its experts there is something to carry besides the residual.
struct Streams {
  CapturedStates quantized;
  CapturedStates full;
};

/// The same tap in two streams of the same tokens: that of the model as it is quantized so far,
/// and that of the model as it came. All in the backend's memory.
struct TapStreams {
  LayerInputs inputs;             ///< of the quantized stream, x [tokens × n]
  ConstTensorView full_x;         ///< of the other, [tokens × n]
  ConstTensorView residual;       ///< [tokens × hidden]
  ConstTensorView full_residual;  ///< [tokens × hidden]
};

/// Weights that layers are to be rounded to.
struct StreamTargets {
  WeightSet weights;                     ///< W* by the names of W, over W itself
  std::map<std::string, double> shifts;  ///< ‖W* − W‖/‖W‖ of those that were moved
};

/// Makes targets. With H = Σ xᵀx/T of the quantized stream, λ = 0.01·mean(diag H), and e of each
/// token, W* = W + s (Σ eᵀx/T) (H + λI)⁻¹, the least squares fit of e on x, taken as far as it will
/// hold for other tokens (s: fit_share). e = α W (x_f − x), and β (r_f − r) more for a layer that
/// adds to the residual r; without that, W* = W + α W M with M the fit of x_f − x, which layers
/// with one input have in common. Collective throughout.
class StreamTarget {
 public:
  /// Refers to `options`.
  StreamTarget(Collectives& comm, Backend& backend, const QuantizeOptions& options, Phases& phases)
      : comm_(comm), backend_(backend), options_(options), phases_(phases) {}

  /// Returns the targets of layers that read one tap of a block; those that are not moved have W
  /// itself. None is moved where tokens do not suffice. `h`: the lower triangle of H; empty: no
  /// rank is to hold it. `weights`: the layers as they came. `moves`: some layer of the block adds
  /// to the residual; else none is moved, for drift alone shrinks weights.
  [[nodiscard]] StreamTargets make(const LayerList& readers, const TapStreams& streams,
                                   MatrixView<const double> h, const WeightSet& weights,
                                   const SampleShard& shard, bool moves);

 private:
  Collectives& comm_;
  Backend& backend_;
  const QuantizeOptions& options_;
  Phases& phases_;
};

/// H + λI with its factor, on one rank. Not collective.
class WholeRidge {
 public:
  /// Factorises; `h` holds the lower triangle of H.
  explicit WholeRidge(MatrixView<const double> h);
  /// Replaces each row g by g (H + λI)⁻¹, and returns g (H + λI)⁻¹ gᵀ of each.
  std::vector<double> solve(MatrixView<double> g) const;

 private:
  Matrix<double> l_;
  std::vector<double> d_;
};

/// True if there are so many tokens, 4 for an input, that a fit on n inputs means anything.
[[nodiscard]] bool tokens_suffice(double tokens, index_t n);
/// Returns the share of a least squares fit on n inputs that will hold for other tokens: adjusted
/// R² over R², which is `explained`; 0 if the tokens are too few to say.
[[nodiscard]] double fit_share(double explained, double tokens, index_t n);

/// Writes W + share · step to `out`, and returns how far that is from W, ‖W* − W‖/‖W‖. T is float
/// or double.
template <typename T>
double move_rows(MatrixView<const float> w, MatrixView<const T> step, double share,
                 MatrixView<float> out);

/// Sets `out` to W M, rows [rows × n] and M [n × n]; the bits of a row depend on its place among
/// 32.
void multiply_rows(MatrixView<const float> w, MatrixView<const float> m, MatrixView<float> out);

/// Sets `out` to factor · (a − b).
void set_difference(Backend& backend, ConstTensorView a, ConstTensorView b, double factor,
                    TensorView out);

/// Returns ‖a − b‖/‖b‖ of the states of all `samples` of all ranks (collective), the same on any
/// number of them.
[[nodiscard]] double relative_distance(Collectives& comm, Backend& backend,
                                       const SampleShard& shard, index_t samples, ConstTensorView a,
                                       ConstTensorView b);

}  // namespace quip
