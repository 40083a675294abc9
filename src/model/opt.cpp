// OPT: learned positions, biases, and layer norms before (most sizes) or after (350m) each part.
#include <utility>

#include "family_common.hpp"

#include "quip/core/error.hpp"

namespace quip {
namespace {

// The embedding of position p is stored in row p + 2.
constexpr index_t position_offset = 2;

class Opt final : public Decoder {
 public:
  Opt(ModelConfig config, std::string prefix)
      : Decoder(std::move(config)), prefix_(std::move(prefix)) {}

  [[nodiscard]] std::vector<LinearSpec> linears(index_t block) const override {
    const index_t hidden = config().hidden;
    const auto spec = [&](const char* part, const char* type, index_t rows, index_t cols, int tap) {
      return LinearSpec{layer(block) + part + type, type, rows, cols, tap, config().bias};
    };
    return {spec("self_attn.", "q_proj", hidden, hidden, 0),
            spec("self_attn.", "k_proj", hidden, hidden, 0),
            spec("self_attn.", "v_proj", hidden, hidden, 0),
            spec("self_attn.", "out_proj", hidden, hidden, 1),
            spec("", "fc1", config().intermediate, hidden, 2),
            spec("", "fc2", hidden, config().intermediate, 3)};
  }

  [[nodiscard]] std::vector<TensorSpec> block_tensors(index_t block) const override {
    std::vector<TensorSpec> tensors;
    append_norm(layer(block) + "self_attn_layer_norm", tensors);
    append_norm(layer(block) + "final_layer_norm", tensors);
    append_biases(linears(block), tensors);
    return tensors;
  }

  [[nodiscard]] std::vector<TensorSpec> end_tensors() const override {
    const index_t hidden = config().hidden;
    std::vector<TensorSpec> tensors = {
        {positions(), {config().max_positions + position_offset, hidden}}};
    if (projected()) {
      tensors.push_back({prefix_ + "project_in.weight", {hidden, config().embedding_dim}});
      tensors.push_back({prefix_ + "project_out.weight", {config().embedding_dim, hidden}});
    }
    if (final_norm()) append_norm(prefix_ + "final_layer_norm", tensors);
    return tensors;
  }
  [[nodiscard]] TensorSpec embedding() const override {
    return {prefix_ + "embed_tokens.weight", {config().vocabulary, config().embedding_dim}};
  }

  void prepare(Backend& /*backend*/, index_t length) override { require_length(config(), length); }

  void embed(Backend& backend, const WeightSet& ends, ConstTensorView rows,
             TensorView residual) const override {
    if (projected()) {
      apply_linear(backend, ends, prefix_ + "project_in", rows, residual);
    } else {
      backend.copy(rows, residual);
    }
    backend.add(ends[positions()].middle_rows(position_offset, residual.rows), residual);
  }

  void advance(int stage, index_t block, Backend& backend, const WeightSet& weights,
               TensorView residual, ConstTensorView input, TensorView output) const override {
    const std::string at = layer(block);
    switch (stage) {
      case 0:
        enter(backend, weights, at + "self_attn_layer_norm", residual, output);
        return;
      case 1:
        attention(block, backend, project(at + "self_attn.", backend, weights, input), output);
        return;
      case 2:
        add_linear(backend, weights, at + "self_attn.out_proj", input, residual);
        leave(backend, weights, at + "self_attn_layer_norm", residual);
        enter(backend, weights, at + "final_layer_norm", residual, output);
        return;
      case 3:
        apply_linear(backend, weights, at + "fc1", input, output);
        backend.activate(config().activation, output);
        return;
      case 4:
        add_linear(backend, weights, at + "fc2", input, residual);
        leave(backend, weights, at + "final_layer_norm", residual);
        return;
      default:
        fail("an OPT block has no stage {}", stage);
    }
  }

  [[nodiscard]] Tensor finish(Backend& backend, const WeightSet& ends,
                              ConstTensorView residual) const override {
    Tensor normed = backend.allocate(residual.rows, residual.cols);
    if (final_norm()) {
      norm(backend, ends, prefix_ + "final_layer_norm", residual, normed.view());
    } else {
      backend.copy(residual, normed.view());
    }
    if (!projected()) return normed;
    Tensor result = backend.allocate(residual.rows, config().embedding_dim);
    apply_linear(backend, ends, prefix_ + "project_out", normed.cview(), result.view());
    return result;
  }

 private:
  [[nodiscard]] std::string layer(index_t block) const {
    return fmt::format("{}layers.{}.", prefix_, block);
  }
  [[nodiscard]] std::string positions() const { return prefix_ + "embed_positions.weight"; }
  [[nodiscard]] bool projected() const { return config().embedding_dim != config().hidden; }
  [[nodiscard]] bool final_norm() const { return config().norm_before && config().final_norm; }

  void append_norm(const std::string& name, std::vector<TensorSpec>& tensors) const {
    if (!config().norm_affine) return;
    tensors.push_back({name + ".weight", {config().hidden}});
    tensors.push_back({name + ".bias", {config().hidden}});
  }

  void norm(Backend& backend, const WeightSet& weights, const std::string& name, ConstTensorView x,
            TensorView y) const {
    backend.layer_norm(x, weights.optional(name + ".weight"), weights.optional(name + ".bias"),
                       config().norm_epsilon, y);
  }

  /// Makes the input of a sub-layer: the norm comes here if it comes before.
  void enter(Backend& backend, const WeightSet& weights, const std::string& name,
             ConstTensorView residual, TensorView output) const {
    if (config().norm_before) {
      norm(backend, weights, name, residual, output);
    } else {
      backend.copy(residual, output);
    }
  }

  /// Ends a sub-layer, after its residual connection: the norm comes here if it comes after.
  void leave(Backend& backend, const WeightSet& weights, const std::string& name,
             TensorView residual) const {
    if (!config().norm_before) norm(backend, weights, name, residual, residual);
  }

  std::string prefix_;  ///< "model.decoder." or "decoder."
};

void parse_opt(const ConfigFields& fields, ModelConfig& config) {
  parse_sizes(fields, "ffn_dim", config);
  require_equal_heads(fields, config);
  config.kv_heads = config.heads;
  config.head_dim = config.hidden / config.heads;
  config.norm_epsilon = 1e-5F;  // torch's default: OPT has no field for it
  config.tied_head = fields.flag_or("tie_word_embeddings", true);
  parse_activation(fields, "activation_function", "relu", config);
  config.embedding_dim = fields.size_or("word_embed_proj_dim", config.hidden);
  config.norm_before = fields.flag_or("do_layer_norm_before", true);
  config.final_norm = !fields.flag_or("_remove_final_layer_norm", false);
  config.norm_affine = fields.flag_or("layer_norm_elementwise_affine", true);
  config.bias = fields.flag_or("enable_bias", true);
}

std::unique_ptr<Family> make_opt(const ModelConfig& config, const TensorSource& source) {
  const bool bare = source.contains("decoder.embed_tokens.weight");
  return std::make_unique<Opt>(config, bare ? "decoder." : "model.decoder.");
}

constexpr ModelRow model_text = {"opt", "OPTForCausalLM", parse_opt, make_opt};

}  // namespace

std::span<const ModelRow> opt_models() { return {&model_text, 1}; }

}  // namespace quip
