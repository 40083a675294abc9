// One decoder block: capture, Hessians, factors, rounding.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "quip/core/phases.hpp"
#include "quip/pipeline/hidden_states.hpp"
#include "quip/pipeline/narrow_layers.hpp"
#include "quip/pipeline/quantize.hpp"
#include "quip/pipeline/stream_target.hpp"
#include "quip/pipeline/wide_layer.hpp"
#include "quip/store/packed_model.hpp"

namespace quip {

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

  /// Quantizes the linears of a block but for those of experts. `states` is its input and is only
  /// read. On return `weights` holds the dequantized layers. Same result on every rank.
  [[nodiscard]] std::vector<StoredLayer> quantize(index_t block, WeightSet& weights,
                                                  const SampleShard& shard, ConstTensorView states);

  /// Does the same for --target stream, layer after layer. `streams` hold the block's inputs, and
  /// then its outputs, or, if it has experts, what these take.
  [[nodiscard]] std::vector<StoredLayer> quantize(index_t block, WeightSet& weights,
                                                  const SampleShard& shard, Streams& streams);

 private:
  /// The layers of one block.
  struct Work;
  [[nodiscard]] Work work_of(index_t block) const;
  void quantize_wide(LayerGroup group, const LayerInputs& inputs, const WeightSet& weights,
                     const std::function<void(StoredLayer)>& done);
  [[nodiscard]] Tensor dequantized(const StoredLayer& stored);

  Collectives& comm_;
  Backend& backend_;
  const Family& family_;
  const QuantizeOptions& options_;
  Phases& phases_;
  NarrowLayers narrow_;
  StreamTarget target_;
  WideFactorisers factorisers_;
};

}  // namespace quip
