// The way of a rank's samples through a block with experts, of which only some are in memory.
#pragma once

#include <vector>

#include "quip/backend/backend.hpp"
#include "quip/comm/collectives.hpp"
#include "quip/model/family.hpp"
#include "quip/pipeline/capture.hpp"
#include "quip/pipeline/hidden_states.hpp"
#include "quip/pipeline/loader.hpp"

namespace quip {

/// Tokens for which the inputs of an expert's linears are wanted.
struct ExpertTokens {
  index_t every = 0;  ///< all whose number among those of all samples is a multiple of this; 0:
                      ///< those that are routed to it
};

/// Returns where each sample's rows begin in a matrix of an expert's rows, and where the last end.
[[nodiscard]] std::vector<index_t> first_rows(const std::vector<Routing>& chosen,
                                              const ExpertPlan& expert);

/// Holds what the experts read, for all samples. `begin`, then `add` for each expert in the order
/// of the plan, then `end`: the bits of Family::forward. Collective throughout.
class ExpertPass {
 public:
  /// `states`, the block's input, becomes its output in place.
  ExpertPass(Collectives& comm, Backend& backend, const Family& family, index_t block,
             const SampleShard& shard, TensorView states);
  /// Goes on where a capture has reached the experts' tap, instead of `begin`; `take_states` hands
  /// the block's output back.
  ExpertPass(Collectives& comm, Backend& backend, const Family& family, index_t block,
             const SampleShard& shard, CapturedStates captured);

  /// Runs what comes before the experts, and routes.
  void begin(const WeightSet& weights);
  /// Adds an expert's outputs for the tokens that are routed to it.
  void add(const ExpertPlan& expert, const WeightSet& weights);
  /// Runs what comes after the experts.
  void end(const WeightSet& weights);

  [[nodiscard]] Tensor take_states() { return std::move(own_); }

  /// Returns the residual as it is by now.
  [[nodiscard]] ConstTensorView residual() const { return states_; }
  /// Returns by how much more than once all outputs of a token's experts count together, at least
  /// 1, of each of this rank's tokens.
  [[nodiscard]] std::vector<float> summed_weights() const;
  /// Returns the routing of samples in which an expert has chosen tokens.
  [[nodiscard]] std::vector<Routing> routings(const ExpertPlan& expert, ExpertTokens tokens) const;
  /// Returns the number of this rank's tokens that are routed to an expert.
  [[nodiscard]] index_t tokens_of(const ExpertPlan& expert) const;
  /// Returns what is gathered for experts, of every token [tokens × n].
  [[nodiscard]] ConstTensorView gathered() const;
  /// Returns input number `input` of an expert [its tokens × n], of the tokens that `chosen` names
  /// sample by sample: `weights` hold the linears before.
  [[nodiscard]] Tensor inputs(const ExpertPlan& expert, int input,
                              const std::vector<Routing>& chosen, const WeightSet& weights);
  /// Returns the rows of x [tokens × n] of an expert's tokens.
  [[nodiscard]] Tensor rows_of(ConstTensorView x, const ExpertPlan& expert,
                               const std::vector<Routing>& chosen);

 private:
  ExpertPass(Collectives& comm, Backend& backend, const Family& family, index_t block,
             const SampleShard& shard);
  void run(Range operations, const WeightSet& weights);
  [[nodiscard]] SampleState state_of(index_t sample);
  [[nodiscard]] TensorView place_of(Slot slot, index_t sample);

  Collectives& comm_;
  Backend& backend_;
  const Family& family_;
  const BlockPlan& plan_;
  const Tap& tap_;  ///< the experts'
  const SampleShard& shard_;
  Tensor own_;  ///< the states, if they were handed over
  TensorView states_;
  Slot routes_;
  Tensor carried_;               ///< [tokens × as many columns as the tap carries]
  std::vector<Routing> routed_;  ///< by sample
};

/// Forwards every sample through the loader's block, in place (collective). `weights` are what its
/// load() gives; experts come and go one by one.
void forward_block(Collectives& comm, Backend& backend, const Family& family,
                   const BlockLoader& loader, WeightSet& weights, const SampleShard& shard,
                   TensorView states);

}  // namespace quip
