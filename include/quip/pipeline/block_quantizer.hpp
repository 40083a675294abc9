// One decoder block: capture, Hessians, factors, rounding.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "quip/core/phases.hpp"
#include "quip/pipeline/hidden_states.hpp"
#include "quip/pipeline/quantize.hpp"
#include "quip/pipeline/wide_layer.hpp"
#include "quip/quant/factor/factor.hpp"
#include "quip/store/packed_model.hpp"

namespace quip {

/// Returns the rank that factorises each layer: largest first, to the least loaded rank (lowest on
/// ties). `orders` are the layers' Hessian orders.
[[nodiscard]] std::vector<int> assign_owners(const std::vector<index_t>& orders, int ranks);

/// The layers of a block, with their options.
using LayerList = std::vector<std::pair<LinearSpec, LayerOptions>>;

/// Returns the ranges of layers that are prepared together: neighbours that read the same tap and
/// share what is made of it, and by themselves all others.
[[nodiscard]] std::vector<Range> input_groups(const LayerList& layers);

/// Quantizes the linears of one block after another. Collective throughout.
class BlockQuantizer {
 public:
  /// Refers to `options`, and reads those that concern a block.
  BlockQuantizer(Collectives& comm, Backend& backend, const Family& family,
                 const QuantizeOptions& options, Phases& phases);

  /// Is told the step being worked on.
  std::function<void(const std::string&)> on_step = [](const std::string&) {};

  /// Returns the makers of the factors of wide layers so far.
  [[nodiscard]] const WideFactorisers& factorisers() const { return factorisers_; }

  /// Quantizes a block. `states` is its input and is only read. On return `weights` holds the
  /// dequantized layers. Same result on every rank.
  [[nodiscard]] std::vector<StoredLayer> quantize(index_t block, WeightSet& weights,
                                                  const SampleShard& shard, ConstTensorView states);

 private:
  /// Some layers that are prepared together.
  using Group = std::span<const std::pair<LinearSpec, LayerOptions>>;

  void round(const LayerList& layers, std::vector<Matrix<double>> hessians, WeightSet& weights,
             std::vector<StoredLayer>& stored);
  std::vector<PreparedLayer> factorise(const WeightSet& weights, const LayerList& layers,
                                       const std::vector<Range>& groups,
                                       std::vector<Matrix<double>> hessians,
                                       const std::vector<int>& owners);
  /// Rounds the layers of a group, which has been prepared, and hands each to `done`.
  void round_group(Group group, PreparedLayer& prepared, const WeightSet& weights,
                   const std::function<void(StoredLayer)>& done);
  void quantize_wide(Group group, const LayerInputs& inputs, const WeightSet& weights,
                     const std::function<void(StoredLayer)>& done);
  void dequantize_into(WeightSet& weights, const StoredLayer& stored);
  [[nodiscard]] PreparedLayer prepare(const LinearSpec& linear, const LayerOptions& options,
                                      MatrixView<const float> weights,
                                      Matrix<double> hessian) const;

  Collectives& comm_;
  Backend& backend_;
  const Family& family_;
  const QuantizeOptions& options_;
  Phases& phases_;
  WideFactorisers factorisers_;
};

}  // namespace quip
