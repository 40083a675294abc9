// A model as its family describes it: tensors and plans as data, and their run on one sample.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "quip/backend/backend.hpp"
#include "quip/io/tensor_source.hpp"
#include "quip/model/block_plan.hpp"
#include "quip/model/config.hpp"

namespace quip {

/// The fp32 weights of one block, or of the model's ends, in backend memory, by full tensor name.
/// Vectors are 1 × n.
class WeightSet {
 public:
  WeightSet() = default;
  /// Returns a set that has those of `under`, which must outlive it, where it has none itself.
  [[nodiscard]] static WeightSet over(const WeightSet& under) {
    WeightSet set;
    set.under_ = &under;
    return set;
  }
  void insert(const std::string& name, Tensor tensor) { tensors_[name] = std::move(tensor); }
  void erase(const std::string& name) { tensors_.erase(name); }
  /// Removes a tensor that the set has itself, and returns it.
  [[nodiscard]] Tensor take(const std::string& name) {
    return std::move(tensors_.extract(name).mapped());
  }
  /// Throws Error naming a tensor that was never loaded.
  [[nodiscard]] ConstTensorView operator[](const std::string& name) const;
  /// Returns an empty view if the name is.
  [[nodiscard]] ConstTensorView optional(const std::string& name) const;

 private:
  std::map<std::string, Tensor> tensors_;
  const WeightSet* under_ = nullptr;
};

/// A table of rotary angles.
struct RopeAngles {
  std::vector<float> frequencies;  ///< radians per position of each pair
  float magnitude = 1.0F;          ///< multiplies cosine and sine
  Temperature temperature = {};    ///< does as well
};

/// A decoder-only transformer, from the rows of its embedding to what its head multiplies.
struct ModelPlan {
  TensorSpec embedding;  ///< [vocabulary × embedding width]
  TensorSpec head;       ///< [vocabulary × embedding width]; the embedding itself when tied
  std::vector<RopeAngles> ropes;
  BlockPlan embed;                ///< from rows of the embedding to the first block's residual
  std::vector<BlockPlan> blocks;  ///< each turns the residual [hidden] into the next block's
  BlockPlan finish;               ///< from the last residual to the head's input
};

/// The tokens of an expert, and their weights.
struct RoutedTokens {
  std::vector<index_t> tokens;
  std::vector<float> weights;
};
/// The tokens of each expert that has any.
using Routing = std::map<index_t, RoutedTokens>;
/// Reads what op::Route has written for a sample [length × 2·chosen], on the host.
[[nodiscard]] Routing routing_of(ConstTensorView routes);

/// The activations of one sample on its way through a plan.
class SampleState {
 public:
  SampleState(const BlockPlan& plan, index_t length);

  /// Has `slot` live in memory of the caller's, [length × width].
  void bind(Slot slot, TensorView view) { places_[at(slot)] = {view, {}, true}; }
  [[nodiscard]] bool holds(Slot slot) const { return places_[at(slot)].there; }
  /// Throws Error if nothing has been written there, or all that needs it is done.
  [[nodiscard]] TensorView operator[](Slot slot) const;
  /// Allocates a slot unless it has its place.
  void make(Slot slot, Backend& backend);
  void drop(Slot slot) { places_[at(slot)] = {}; }

  /// Has experts take these tokens, which the caller keeps, whatever `routes` holds.
  void bind(Slot routes, const Routing& routing) { routings_[routes] = &routing; }
  /// Returns those of the expert whose activation `slot` is.
  const RoutedTokens& routed(Slot slot, Backend& backend);

 private:
  struct Place {
    TensorView view;
    Tensor owned;  ///< empty if it is the caller's
    bool there = false;
  };
  const BlockPlan& plan_;
  index_t length_;
  std::vector<Place> places_;
  std::map<Slot, const Routing*> routings_;  ///< by routes
  std::map<Slot, Routing> own_;              ///< those made here
};

class Family {
 public:
  Family(ModelConfig config, ModelPlan plan);

  [[nodiscard]] const ModelConfig& config() const { return config_; }

  // --- its tensors ---
  [[nodiscard]] const BlockPlan& block(index_t number) const { return plan_.blocks[at(number)]; }
  /// Returns the linears of a block, in the order in which they are reported and stored.
  [[nodiscard]] const std::vector<LinearSpec>& linears(index_t number) const {
    return block(number).linears;
  }
  /// Returns the other tensors of a block (norms and biases).
  [[nodiscard]] const std::vector<TensorSpec>& block_tensors(index_t number) const {
    return block(number).tensors;
  }
  /// Returns the tensors needed whole before the first and after the last block (norms,
  /// projections, position embeddings); not the token embedding and not the head.
  [[nodiscard]] std::vector<TensorSpec> end_tensors() const;
  [[nodiscard]] const TensorSpec& embedding() const { return plan_.embedding; }
  [[nodiscard]] const TensorSpec& head() const { return plan_.head; }
  /// Returns the length of the longest sequence that the model can take.
  [[nodiscard]] index_t max_length() const { return config_.max_positions; }

  // --- its computations on one sample of `length` tokens, `residual` [length × hidden] ---
  /// Makes tables of rotary angles for sequences of up to this length. Call once, before the rest.
  void prepare(Backend& backend, index_t length);
  /// Makes the first block's residual of embedding rows [length × embedding width].
  void embed(Backend& backend, const WeightSet& ends, TensorView rows, TensorView residual) const;
  /// Runs some operations of a plan of this model. Activations are allocated when they are first
  /// written, and dropped after the last operation of the plan that needs them.
  void run(const BlockPlan& plan, Range operations, Backend& backend, const WeightSet& weights,
           SampleState& state) const;
  /// Runs a whole block, in place.
  void forward(index_t number, Backend& backend, const WeightSet& weights,
               TensorView residual) const;
  /// Makes what the head multiplies [length × embedding width] in `result`.
  void finish(Backend& backend, const WeightSet& ends, TensorView residual,
              TensorView result) const;

 private:
  struct Angles {
    Tensor cosine;  ///< [prepared length × pairs]
    Tensor sine;
  };
  friend class Runner;

  void run_whole(const BlockPlan& plan, Backend& backend, const WeightSet& weights,
                 TensorView input, TensorView output) const;

  ModelConfig config_;
  ModelPlan plan_;
  std::vector<Angles> angles_;
};

/// Makes the family for a configuration. `source` settles naming (some OPT files lack the "model."
/// prefix). Throws Error if a tensor is missing or has the wrong shape; the weights of linears for
/// which `elsewhere(name)` holds (those a packed model keeps as codes) are not looked for in
/// `source`.
[[nodiscard]] std::unique_ptr<Family> make_family(
    const ModelConfig& config, const TensorSource& source,
    const std::function<bool(const std::string&)>& elsewhere = {});

/// Makes it without a look at which tensors there are: for planning.
[[nodiscard]] std::unique_ptr<Family> make_unchecked_family(const ModelConfig& config,
                                                            const TensorSource& source);

}  // namespace quip
