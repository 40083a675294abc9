// One decoder block: capture, Hessians, factors, rounding.
#pragma once

#include <filesystem>
#include <functional>
#include <regex>
#include <string>
#include <vector>

#include "quip/core/phases.hpp"
#include "quip/pipeline/hidden_states.hpp"
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
  /// Returns the options of the layer of that name.
  using OptionsOf = std::function<LayerOptions(const std::string&)>;

  /// With `true_sequential` the Hessians of a layer see the quantized layers before it in its own
  /// block too, not only the blocks before (one tap is rounded before the next is captured).
  BlockQuantizer(Collectives& comm, Backend& backend, const Family& family, OptionsOf options,
                 const std::string& skip, bool true_sequential, Phases& phases);

  /// Folder for weights and Hessian of a layer whose factorisation fails; empty: none. Costs a copy
  /// of the Hessian being factorised.
  std::filesystem::path dump_failing;
  /// Layers that all ranks work on together. (They leave nothing in `dump_failing`.)
  WideOptions wide;
  /// Receives the name of each step when it begins.
  std::function<void(const std::string&)> on_step = [](const std::string&) {};

  /// Returns who factorised the wide layers so far.
  [[nodiscard]] const WideFactorisers& factorisers() const { return factorisers_; }
  /// Returns the linears of `block` that are quantized: all but those that --skip matches.
  [[nodiscard]] std::vector<LinearSpec> selected(index_t block) const;

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
  OptionsOf options_;
  std::regex skip_;
  bool skips_;
  bool true_sequential_;
  Phases& phases_;
  WideFactorisers factorisers_;
};

}  // namespace quip
