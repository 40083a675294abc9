// A model family: its tensors as data, and the forward pass of one block.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "quip/backend/backend.hpp"
#include "quip/io/tensor_source.hpp"
#include "quip/model/config.hpp"

namespace quip {

/// One linear layer of a block: these get quantized.
struct LinearSpec {
  std::string name;  ///< full tensor name without ".weight"
  std::string type;  ///< last part of the name ("q_proj"): what reports group by
  index_t rows = 0;  ///< outputs
  index_t cols = 0;  ///< inputs
  int tap = 0;       ///< number of the captured activation that is its input
  bool bias = false;
};

/// A tensor of known shape that stays as it is (norms, biases, projections).
struct TensorSpec {
  std::string name;
  std::vector<index_t> shape;
};

/// The fp32 weights of one block, or of the model's ends, in backend memory, by full tensor name.
/// Vectors are 1 × n.
class WeightSet {
 public:
  void insert(const std::string& name, Tensor tensor) { tensors_[name] = std::move(tensor); }
  /// Throws Error naming a tensor that was never loaded.
  [[nodiscard]] ConstTensorView operator[](const std::string& name) const;
  /// Returns an empty view if the tensor is not there (an absent bias).
  [[nodiscard]] ConstTensorView optional(const std::string& name) const;

 private:
  std::map<std::string, Tensor> tensors_;
};

/// A decoder-only transformer. A block is walked in taps()+1 stages; between two stages lies a
/// *tap*: the activation that is the input of one or more linears. Capturing all inputs, and
/// forwarding the block, are the same loop over stages.
class Family {
 public:
  Family() = default;
  Family(const Family&) = delete;
  Family& operator=(const Family&) = delete;
  virtual ~Family() = default;

  [[nodiscard]] virtual const ModelConfig& config() const = 0;

  // --- its tensors ---
  [[nodiscard]] virtual int taps() const = 0;
  [[nodiscard]] virtual index_t tap_width(int tap) const = 0;
  /// Returns the linears of a block, in the order in which they are reported and stored.
  [[nodiscard]] virtual std::vector<LinearSpec> linears(index_t block) const = 0;
  /// Returns the other tensors of a block (norms and biases).
  [[nodiscard]] virtual std::vector<TensorSpec> block_tensors(index_t block) const = 0;
  /// Returns the tensors needed whole before the first and after the last block (norms,
  /// projections, position embeddings); not the token embedding and not the head.
  [[nodiscard]] virtual std::vector<TensorSpec> end_tensors() const = 0;
  /// Returns the token embedding [vocabulary × embedding width].
  [[nodiscard]] virtual TensorSpec embedding() const = 0;
  /// Returns the head [vocabulary × embedding width]; the embedding itself when tied.
  [[nodiscard]] virtual TensorSpec head() const = 0;
  /// Returns the length of the longest sequence that the model can take.
  [[nodiscard]] virtual index_t max_length() const = 0;

  // --- its computations on one sample of `length` tokens, `residual` [length × hidden] ---
  /// Builds tables (rotary angles) for sequences of this length. Call once, before the rest.
  virtual void prepare(Backend& backend, index_t length) = 0;
  /// Makes the first block's residual of embedding rows [length × embedding width].
  virtual void embed(Backend& backend, const WeightSet& ends, ConstTensorView rows,
                     TensorView residual) const = 0;
  /// Does one stage, 0 ≤ stage ≤ taps(): consumes tap `stage-1` in `input` (empty for stage 0) and
  /// writes tap `stage` to `output` (empty for the last stage). `residual` is the block's input
  /// before stage 0 and its output after the last.
  virtual void advance(int stage, index_t block, Backend& backend, const WeightSet& weights,
                       TensorView residual, ConstTensorView input, TensorView output) const = 0;
  /// Returns the floats a token that `advance` allocates in between.
  [[nodiscard]] virtual index_t scratch_width(int stage) const = 0;
  /// Returns what the head multiplies [length × embedding width]: final norm and projection.
  [[nodiscard]] virtual Tensor finish(Backend& backend, const WeightSet& ends,
                                      ConstTensorView residual) const = 0;
};

/// Forwards one sample through a whole block: all stages in order, in place.
void forward_block(const Family& family, index_t block, Backend& backend, const WeightSet& weights,
                   TensorView residual);

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
