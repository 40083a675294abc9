// Writes plans down: operation by operation, with the parts that most decoders have in common.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "quip/model/block_plan.hpp"
#include "quip/model/config.hpp"
#include "quip/model/family.hpp"

namespace quip {

/// The matrices of all experts, one after the other in a tensor [experts × inputs × outputs], or
/// [experts × outputs × inputs]; their biases are vectors in one [experts × outputs].
struct StackedExperts {
  std::string tensor;
  index_t experts = 0;
  index_t inputs = 0;
  index_t outputs = 0;
  bool by_outputs = false;

  /// Returns the place of an expert's linear with every `step`-th output from `first` on.
  [[nodiscard]] WeightHandle part(index_t expert, index_t first = 0, index_t step = 1) const;
  /// Returns that of its bias in the tensor `name`.
  [[nodiscard]] WeightHandle bias(const std::string& name, index_t expert, index_t first = 0,
                                  index_t step = 1) const;
};

/// Appends operations. Names of tensors are completed by the prefix ("model.layers.0.").
class PlanBuilder {
 public:
  PlanBuilder(const ModelConfig& config, std::string prefix);

  /// Begins with an activation that the caller hands in.
  Slot input(const char* name, index_t width);

  /// Returns from / rms(from) · gain, with the gain in `name`.weight.
  Slot rms_norm(const std::string& name, Slot from);
  /// Norms each head of x by itself; all with the gain in `name`.weight, or, without a name, none.
  /// `epsilon`: none for the configuration's.
  void norm_by_head(const std::string& name, Slot x, index_t heads,
                    std::optional<float> epsilon = {});
  /// Returns (from − mean) / std; `affine`: times `name`.weight plus `name`.bias.
  Slot layer_norm(const std::string& name, Slot from, bool affine);
  void layer_norm_in_place(const std::string& name, Slot x, bool affine);
  /// Returns a linear of `from` that gets quantized.
  Slot linear(const std::string& name, Slot from, index_t rows, bool bias);
  /// Adds one to `to`.
  void add_linear(const std::string& name, Slot from, bool bias, Slot to);
  /// Has the linears that follow take their weights from rows of the tensor `name`.weight
  /// [rows × cols], one after the other, until all its rows are taken.
  void share_tensor(const std::string& name, index_t rows, index_t cols);
  /// Has the next linear take its weights, and its bias, from these places, whose tensors are
  /// named like those of other operations.
  void store_next(WeightHandle weights, WeightHandle bias = {});
  /// Returns a linear that stays as it is.
  Slot fixed_linear(const std::string& name, Slot from, index_t rows);
  /// Returns logits, in fp32 on every backend.
  Slot router(const std::string& name, Slot from, index_t rows, bool bias);
  Slot copy(Slot from, const char* name);
  /// Returns an activation that is to be filled by copies.
  Slot make(const char* name, index_t width);
  void copy_channels(const op::CopyChannels& copy);
  void rope(Slot x, const RopeShape& shape, int table = 0);
  /// `sinks`: the name of a tensor, or empty.
  Slot attend(Slot q, Slot k, Slot v, const AttentionShape& shape, const std::string& sinks = "");
  void activate(Slot x);
  void gate(Slot gate, Slot up);
  void gate_clamped(Slot gate, Slot up, const ClampedSwiglu& shape);
  void scale(Slot x, double factor);
  void add(Slot from, Slot to);
  /// Adds rows of a tensor of this shape.
  void add_rows(const std::string& tensor, std::vector<index_t> shape, index_t first, Slot x);

  /// Returns the experts of each token, and their weights. `correction`: a tensor of this shape, or
  /// empty.
  Slot route(Slot logits, const RouterShape& shape, const TensorSpec& correction = {});
  /// Returns the rows of x that are routed to an expert, times their weights if `weighted`.
  Slot gather(Slot x, Slot routes, index_t expert, const RouterShape& shape, bool weighted = false);
  /// Adds an expert's rows to those of `to` that they came from, times their weights if `weighted`.
  void scatter(Slot from, Slot routes, Slot to, bool weighted = true);

  /// Returns the shape of attention in a block, as the configuration has it.
  [[nodiscard]] AttentionShape attention_shape(index_t block) const;
  [[nodiscard]] const ModelConfig& config() const { return config_; }
  [[nodiscard]] index_t width(Slot slot) const { return plan_.width(slot); }

  /// Returns the plan, whose result is `output`. Throws Error if an operation reads what no earlier
  /// one has written.
  [[nodiscard]] BlockPlan finish(Slot output);

 private:
  /// `like`: the activation whose rows it has; none: a row for every token.
  [[nodiscard]] Slot add_activation(std::string_view name, index_t width,
                                    std::optional<Slot> like = {});
  void add_layer_norm(const std::string& name, Slot from, Slot to, bool affine);
  void add_linear_operation(const std::string& name, Slot from, Slot to, bool bias, bool adds);

  const ModelConfig& config_;
  std::string prefix_;
  WeightHandle shared_;  ///< from the first row on that is not taken
  WeightHandle next_;    ///< the next linear's weights and bias
  WeightHandle next_bias_;
  BlockPlan plan_;
};

/// A block whose input and output is the residual [hidden].
class BlockBuilder : public PlanBuilder {
 public:
  BlockBuilder(const ModelConfig& config, index_t block)
      : BlockBuilder(config, block, config.root + "layers.") {}
  BlockBuilder(const ModelConfig& config, index_t block, const std::string& layers);

  using PlanBuilder::attend;
  using PlanBuilder::rope;
  [[nodiscard]] Slot residual() const { return residual_; }
  [[nodiscard]] BlockPlan finish() { return PlanBuilder::finish(residual_); }

  /// Queries, keys and values: the linears `part`q_proj, k_proj and v_proj of `from`.
  struct Heads {
    Slot q;
    Slot k;
    Slot v;
  };
  Heads project(const std::string& part, Slot from, bool bias);
  /// Rotates queries and keys by the angles of this block, and attends.
  Slot attend_by_position(const Heads& heads, const std::string& sinks = "");
  void rope(const Heads& heads);
  Slot attend(const Heads& heads, const std::string& sinks = "");
  /// Returns act(gate) · up, of the linears `part`gate_proj and up_proj.
  Slot gated(const std::string& part, Slot from, bool bias) {
    return gated(part, from, bias, config().intermediate);
  }
  Slot gated(const std::string& part, Slot from, bool bias, index_t width);
  /// The names of the parts of a mixture of experts; empty: it has none.
  struct ExpertNames {
    const char* router = "mlp.gate";
    const char* correction = "";           ///< of the router's choice
    bool correction_is_row = false;        ///< [1 × experts], not [experts]
    const char* experts = "mlp.experts.";  ///< before an expert's number
    const char* gate = "gate_proj";
    const char* up = "up_proj";
    const char* down = "down_proj";
    const char* shared = "mlp.shared_experts.";  ///< the MLP of all tokens, if there is one
  };
  /// Adds a mixture of gated MLPs of x to the residual, with the configuration's experts.
  void add_experts(const ExpertNames& names, Slot x);
  /// Adds that, or, in a dense block, mlp.gate_proj, up_proj and down_proj.
  void add_experts_or_mlp(const ExpertNames& names, Slot x);
  /// Adds the linear `name` to the residual.
  void add_to_residual(const std::string& name, Slot from, bool bias);
  /// Adds the linear `name`, normed with the gain `norm`.weight.
  void add_normed(const std::string& name, Slot from, bool bias, const std::string& norm);

 private:
  index_t block_;
  Slot residual_;
};

/// Returns the plan of a model with rotary positions whose ends are embed_tokens, norm and
/// the head. `block` makes the plan of each block.
[[nodiscard]] ModelPlan plan_decoder(const ModelConfig& config,
                                     BlockPlan (*block)(const ModelConfig& config, index_t number));

}  // namespace quip
