// The experts of a block: each has an owner, the rank that factorises and rounds it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "quip/core/phases.hpp"
#include "quip/pipeline/expert_pass.hpp"
#include "quip/pipeline/loader.hpp"
#include "quip/pipeline/narrow_layers.hpp"
#include "quip/pipeline/stream_target.hpp"

namespace quip {

/// Returns the number of experts whose weights are in memory together: one for each rank.
[[nodiscard]] index_t experts_at_once(const BlockPlan& plan, int ranks);

/// True if the ranks round rows of every layer together, since there are more of them than factors.
[[nodiscard]] bool rounds_together(const BlockPlan& plan, int ranks);
/// Returns the rank that factorises the layers which read an input of an expert; `place`: that of
/// the expert among those that are in memory together.
[[nodiscard]] int expert_owner(const BlockPlan& plan, index_t place, int input, int ranks);
/// The layers of some experts, and the ranks that factorise them.
struct ExpertLayers {
  LayerList layers;  ///< with a tap for each input of each expert, one expert after the other
  std::vector<int> owners;
};
/// Returns those of `all`, layers of a block, that belong to these experts of its plan and read
/// these of their inputs.
[[nodiscard]] ExpertLayers expert_layers(const BlockPlan& plan, const LayerList& all, Range experts,
                                         Range inputs, int ranks);
/// Returns how many tokens apart those are, of all, on which an expert's own inputs are averaged.
[[nodiscard]] index_t averaged_step(const QuantizeOptions& options, index_t tokens);

/// Quantizes the experts of blocks, a group at a time. Collective throughout.
class ExpertQuantizer {
 public:
  /// Refers to `options`.
  ExpertQuantizer(Collectives& comm, Backend& backend, const Family& family,
                  const QuantizeOptions& options, Phases& phases);

  /// Is told the step being worked on.
  std::function<void(const std::string&)> on_step = [](const std::string&) {};

  /// Quantizes the experts of the loader's block. `weights` hold the rest of the block as the model
  /// will have it; `states`, the block's input, becomes its output. Same result on every rank.
  [[nodiscard]] std::vector<StoredLayer> quantize(const BlockLoader& loader, WeightSet& weights,
                                                  const SampleShard& shard, TensorView states);
  /// Does the same for --target stream: `streams` are at the experts' tap, and become the block's
  /// outputs.
  [[nodiscard]] std::vector<StoredLayer> quantize(const BlockLoader& loader, WeightSet& weights,
                                                  const SampleShard& shard, Streams& streams);

 private:
  struct Work;
  struct Group;

  [[nodiscard]] Work work_of(const BlockLoader& loader, WeightSet& weights) const;
  /// Takes one group of experts after the other.
  [[nodiscard]] std::vector<StoredLayer> run(Work& work, const BlockLoader& loader,
                                             const SampleShard& shard);
  /// True if layers of the block are rounded to other weights than their own.
  [[nodiscard]] bool moves(const Work& work) const;
  /// Returns what an expert's layers that read this input are to make up for (StreamTarget), of
  /// each of its tokens; empty if nothing.
  [[nodiscard]] Tensor errors(Work& work, const ExpertPlan& expert, const LinearSpec& reader,
                              const std::vector<Routing>& chosen, ConstTensorView x);
  /// Makes the targets of layers that are rounded: on their owners, or on all ranks if they round
  /// together.
  struct Targets;
  [[nodiscard]] Targets targets(Work& work, Group& group, const ExpertLayers& chosen,
                                const std::vector<Matrix<double>>& hessians);

  void hessians(Work& work, Group& group, int input);
  /// Rounds the layers that read these inputs.
  void round(Work& work, Group& group, Range inputs);

  Collectives& comm_;
  Backend& backend_;
  const Family& family_;
  const QuantizeOptions& options_;
  Phases& phases_;
  SelfCollectives self_;
  NarrowLayers together_;
  NarrowLayers alone_;
};

}  // namespace quip
