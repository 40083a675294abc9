// OPT: learned positions, biases, and layer norms before (most sizes) or after (350m) each part.
#include <utility>

#include "family_common.hpp"

#include "quip/core/error.hpp"

namespace quip {
namespace {

// The embedding of position p is stored in row p + 2.
constexpr index_t position_offset = 2;

class Opt final : public Family {
 public:
  Opt(ModelConfig config, std::string prefix)
      : config_(std::move(config)), prefix_(std::move(prefix)) {}

  [[nodiscard]] const ModelConfig& config() const override { return config_; }

  // Taps: 0 input of q, k, v; 1 attention output (out_proj), 2 input of fc1, 3 activation (fc2).
  [[nodiscard]] int taps() const override { return 4; }

  [[nodiscard]] index_t tap_width(int tap) const override {
    return tap == 3 ? config_.intermediate : config_.hidden;
  }

  [[nodiscard]] std::vector<LinearSpec> linears(index_t block) const override {
    const index_t hidden = config_.hidden;
    const auto spec = [&](const char* part, const char* type, index_t rows, index_t cols, int tap) {
      return LinearSpec{layer(block) + part + type, type, rows, cols, tap, config_.bias};
    };
    return {spec("self_attn.", "q_proj", hidden, hidden, 0),
            spec("self_attn.", "k_proj", hidden, hidden, 0),
            spec("self_attn.", "v_proj", hidden, hidden, 0),
            spec("self_attn.", "out_proj", hidden, hidden, 1),
            spec("", "fc1", config_.intermediate, hidden, 2),
            spec("", "fc2", hidden, config_.intermediate, 3)};
  }

  [[nodiscard]] std::vector<TensorSpec> block_tensors(index_t block) const override {
    std::vector<TensorSpec> tensors;
    append_norm(layer(block) + "self_attn_layer_norm", tensors);
    append_norm(layer(block) + "final_layer_norm", tensors);
    append_biases(linears(block), tensors);
    return tensors;
  }

  [[nodiscard]] std::vector<TensorSpec> end_tensors() const override {
    const index_t hidden = config_.hidden;
    std::vector<TensorSpec> tensors = {
        {positions(), {config_.max_positions + position_offset, hidden}}};
    if (projected()) {
      tensors.push_back({prefix_ + "project_in.weight", {hidden, config_.embedding_dim}});
      tensors.push_back({prefix_ + "project_out.weight", {config_.embedding_dim, hidden}});
    }
    if (final_norm()) append_norm(prefix_ + "final_layer_norm", tensors);
    return tensors;
  }
  [[nodiscard]] TensorSpec embedding() const override {
    return {prefix_ + "embed_tokens.weight", {config_.vocabulary, config_.embedding_dim}};
  }
  [[nodiscard]] TensorSpec head() const override {
    if (config_.tied_head) return embedding();
    return {"lm_head.weight", {config_.vocabulary, config_.embedding_dim}};
  }
  [[nodiscard]] index_t max_length() const override { return config_.max_positions; }

  void prepare(Backend& /*backend*/, index_t length) override { require_length(config_, length); }

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
        attend(at + "self_attn.", backend, weights, input, output);
        return;
      case 2:
        add_linear(backend, weights, at + "self_attn.out_proj", input, residual);
        leave(backend, weights, at + "self_attn_layer_norm", residual);
        enter(backend, weights, at + "final_layer_norm", residual, output);
        return;
      case 3:
        apply_linear(backend, weights, at + "fc1", input, output);
        backend.activate(config_.activation, output);
        return;
      case 4:
        add_linear(backend, weights, at + "fc2", input, residual);
        leave(backend, weights, at + "final_layer_norm", residual);
        return;
      default:
        fail("an OPT block has no stage {}", stage);
    }
  }

  [[nodiscard]] index_t scratch_width(int stage) const override {
    return stage == 1 ? 3 * config_.hidden : 0;
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
    Tensor result = backend.allocate(residual.rows, config_.embedding_dim);
    apply_linear(backend, ends, prefix_ + "project_out", normed.cview(), result.view());
    return result;
  }

 private:
  [[nodiscard]] std::string layer(index_t block) const {
    return fmt::format("{}layers.{}.", prefix_, block);
  }
  [[nodiscard]] std::string positions() const { return prefix_ + "embed_positions.weight"; }
  [[nodiscard]] bool projected() const { return config_.embedding_dim != config_.hidden; }
  [[nodiscard]] bool final_norm() const { return config_.norm_before && config_.final_norm; }

  void append_norm(const std::string& name, std::vector<TensorSpec>& tensors) const {
    if (!config_.norm_affine) return;
    tensors.push_back({name + ".weight", {config_.hidden}});
    tensors.push_back({name + ".bias", {config_.hidden}});
  }

  void norm(Backend& backend, const WeightSet& weights, const std::string& name, ConstTensorView x,
            TensorView y) const {
    const bool affine = config_.norm_affine;
    backend.layer_norm(x, affine ? weights[name + ".weight"] : ConstTensorView{},
                       affine ? weights[name + ".bias"] : ConstTensorView{}, config_.norm_epsilon,
                       y);
  }

  /// The input of a sub-layer: the norm comes here if it comes before.
  void enter(Backend& backend, const WeightSet& weights, const std::string& name,
             ConstTensorView residual, TensorView output) const {
    if (config_.norm_before) {
      norm(backend, weights, name, residual, output);
    } else {
      backend.copy(residual, output);
    }
  }

  /// After the residual connection of a sub-layer: the norm comes here if it comes after.
  void leave(Backend& backend, const WeightSet& weights, const std::string& name,
             TensorView residual) const {
    if (!config_.norm_before) norm(backend, weights, name, residual, residual);
  }

  void attend(const std::string& at, Backend& backend, const WeightSet& weights,
              ConstTensorView input, TensorView output) const {
    const Tensor q = backend.allocate(input.rows, config_.hidden);
    const Tensor k = backend.allocate(input.rows, config_.hidden);
    const Tensor v = backend.allocate(input.rows, config_.hidden);
    apply_linear(backend, weights, at + "q_proj", input, q.view());
    apply_linear(backend, weights, at + "k_proj", input, k.view());
    apply_linear(backend, weights, at + "v_proj", input, v.view());
    const AttentionShape shape{.heads = config_.heads,
                               .kv_heads = config_.kv_heads,
                               .head_dim = config_.head_dim,
                               .scale = attention_scale(config_.head_dim),
                               .window = {}};
    backend.attention(q.cview(), k.cview(), v.cview(), shape, output);
  }

  ModelConfig config_;
  std::string prefix_;  // "model.decoder." or "decoder."
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
