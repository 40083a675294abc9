// Walks the samples of a rank through a block, tap by tap, summing Hessians.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "quip/core/phases.hpp"
#include "quip/pipeline/hidden_states.hpp"
#include "quip/pipeline/wide_layer.hpp"

namespace quip {

/// What a capture holds: [tokens × hidden], and [tokens × columns of the plan's carried buffer].
struct CapturedStates {
  Tensor residual;
  Tensor carried;
};

/// Holds the running residual and one buffer for what every tap in turn carries on: the captured
/// input, and activations that are needed later.
class Capture {
 public:
  /// Begins before the first tap; `states`, the block's input, is only read (collective).
  Capture(Collectives& comm, Backend& backend, const Family& family, index_t block,
          const SampleShard& shard, ConstTensorView states, Phases& phases);
  /// Begins with `states` as the running residual, which is handed back by `finish`.
  Capture(Collectives& comm, Backend& backend, const Family& family, index_t block,
          const SampleShard& shard, Tensor states, Phases& phases);

  /// Moves every sample on to the next tap, through `weights` as they are now (collective).
  void advance(const WeightSet& weights);
  /// Returns H of the tap just reached (collective). Messages name `layer`, which reads it.
  [[nodiscard]] Matrix<double> hessian(const std::string& layer);
  /// Returns the inputs of the tap just reached; valid until the next `advance`.
  [[nodiscard]] LayerInputs inputs() const;
  /// Returns the residual at the tap just reached.
  [[nodiscard]] ConstTensorView residual() const { return residual_.cview(); }
  /// Runs what comes after the last tap, and returns the block's output (collective).
  [[nodiscard]] Tensor finish(const WeightSet& weights);
  /// Hands over all at the tap just reached; the last call.
  [[nodiscard]] CapturedStates release() { return {std::move(residual_), std::move(carried_)}; }

 private:
  Capture(Collectives& comm, Backend& backend, const Family& family, index_t block,
          const SampleShard& shard, Phases& phases);
  /// Runs the operations of the next stage; `after`: the activations that it leaves to carry on.
  void run_stage(const WeightSet& weights, const std::vector<Slot>& after);
  /// Returns the columns of `carried_` that are an activation's.
  [[nodiscard]] TensorView place_of(Slot slot) const;

  Collectives& comm_;
  Backend& backend_;
  const Family& family_;
  const BlockPlan& plan_;
  const SampleShard& shard_;
  Phases& phases_;
  int tap_ = -1;
  Tensor residual_;
  Tensor carried_;  ///< [tokens × plan_.carried_width]
};

}  // namespace quip
