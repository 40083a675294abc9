// One decoder block: capture, Hessians, factors, rounding.
#pragma once

#include <functional>
#include <string>
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
  void round(const std::vector<LinearSpec>& linears, std::vector<Matrix<double>> hessians,
             WeightSet& weights, std::vector<StoredLayer>& stored);
  std::vector<PreparedLayer> factorise(const WeightSet& weights,
                                       const std::vector<LinearSpec>& linears,
                                       std::vector<Matrix<double>> hessians,
                                       const std::vector<int>& owners);
  [[nodiscard]] StoredLayer quantize_wide(const LinearSpec& linear, const LayerInputs& inputs,
                                          const WeightSet& weights);
  void dequantize_into(WeightSet& weights, const StoredLayer& stored);
  [[nodiscard]] PreparedLayer prepare(const LinearSpec& linear, MatrixView<const float> weights,
                                      Matrix<double> hessian) const;

  Collectives& comm_;
  Backend& backend_;
  const Family& family_;
  const QuantizeOptions& options_;
  Phases& phases_;
  WideFactorisers factorisers_;
};

}  // namespace quip
