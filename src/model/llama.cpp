// Llama, and what differs from it by biases and attention windows only: Mistral, Qwen2.
#include <utility>

#include "family_common.hpp"

#include "quip/core/error.hpp"
#include "quip/model/rope.hpp"

namespace quip {
namespace {

class Llama final : public Family {
 public:
  explicit Llama(ModelConfig config) : config_(std::move(config)) {}

  [[nodiscard]] const ModelConfig& config() const override { return config_; }

  // Taps: 0 normed input (q, k, v), 1 attention output (o), 2 normed (gate, up),
  // 3 gated activation (down).
  [[nodiscard]] int taps() const override { return 4; }

  [[nodiscard]] index_t tap_width(int tap) const override {
    switch (tap) {
      case 1:
        return query_width();
      case 3:
        return config_.intermediate;
      default:
        return config_.hidden;
    }
  }

  [[nodiscard]] std::vector<LinearSpec> linears(index_t block) const override {
    const ModelConfig& c = config_;
    const auto spec = [&](const char* part, const char* type, index_t rows, index_t cols, int tap,
                          bool bias) {
      return LinearSpec{prefix(block) + part + type, type, rows, cols, tap, bias};
    };
    return {spec("self_attn.", "q_proj", query_width(), c.hidden, 0, c.attention_bias),
            spec("self_attn.", "k_proj", key_width(), c.hidden, 0, c.attention_bias),
            spec("self_attn.", "v_proj", key_width(), c.hidden, 0, c.attention_bias),
            spec("self_attn.", "o_proj", c.hidden, query_width(), 1, c.attention_output_bias),
            spec("mlp.", "gate_proj", c.intermediate, c.hidden, 2, c.mlp_bias),
            spec("mlp.", "up_proj", c.intermediate, c.hidden, 2, c.mlp_bias),
            spec("mlp.", "down_proj", c.hidden, c.intermediate, 3, c.mlp_bias)};
  }

  [[nodiscard]] std::vector<TensorSpec> block_tensors(index_t block) const override {
    std::vector<TensorSpec> tensors = {
        {prefix(block) + "input_layernorm.weight", {config_.hidden}},
        {prefix(block) + "post_attention_layernorm.weight", {config_.hidden}}};
    append_biases(linears(block), tensors);
    return tensors;
  }

  [[nodiscard]] std::vector<TensorSpec> end_tensors() const override {
    return {{kFinalNorm, {config_.hidden}}};
  }
  [[nodiscard]] TensorSpec embedding() const override {
    return {"model.embed_tokens.weight", {config_.vocabulary, config_.hidden}};
  }
  [[nodiscard]] TensorSpec head() const override {
    if (config_.tied_head) return embedding();
    return {"lm_head.weight", {config_.vocabulary, config_.hidden}};
  }
  [[nodiscard]] index_t max_length() const override { return config_.max_positions; }

  void prepare(Backend& backend, index_t length) override {
    require_length(config_, length);
    const RopeTables tables = rope_tables(rope_frequencies(config_), length);
    cosine_ = backend.allocate(length, tables.cosine.cols());
    sine_ = backend.allocate(length, tables.sine.cols());
    backend.upload(tables.cosine.span(), cosine_.view());
    backend.upload(tables.sine.span(), sine_.view());
  }

  void embed(Backend& backend, const WeightSet& /*ends*/, ConstTensorView rows,
             TensorView residual) const override {
    backend.copy(rows, residual);
  }

  void advance(int stage, index_t block, Backend& backend, const WeightSet& weights,
               TensorView residual, ConstTensorView input, TensorView output) const override {
    const std::string at = prefix(block);
    switch (stage) {
      case 0:
        norm(backend, weights, at + "input_layernorm.weight", residual, output);
        return;
      case 1:
        attend(block, backend, weights, input, output);
        return;
      case 2:
        add_linear(backend, weights, at + "self_attn.o_proj", input, residual);
        norm(backend, weights, at + "post_attention_layernorm.weight", residual, output);
        return;
      case 3: {
        const Tensor up = backend.allocate(input.rows, config_.intermediate);
        apply_linear(backend, weights, at + "mlp.gate_proj", input, output);
        apply_linear(backend, weights, at + "mlp.up_proj", input, up.view());
        backend.gated_activate(config_.activation, output, up.cview());
        return;
      }
      case 4:
        add_linear(backend, weights, at + "mlp.down_proj", input, residual);
        return;
      default:
        fail("a {} block has no stage {}", config_.model_type, stage);
    }
  }

  [[nodiscard]] index_t scratch_width(int stage) const override {
    if (stage == 1) return query_width() + 2 * key_width();
    return stage == 3 ? config_.intermediate : 0;
  }

  [[nodiscard]] Tensor finish(Backend& backend, const WeightSet& ends,
                              ConstTensorView residual) const override {
    Tensor result = backend.allocate(residual.rows, residual.cols);
    norm(backend, ends, kFinalNorm, residual, result.view());
    return result;
  }

 private:
  static constexpr const char* kFinalNorm = "model.norm.weight";

  [[nodiscard]] static std::string prefix(index_t block) {
    return fmt::format("model.layers.{}.", block);
  }
  [[nodiscard]] index_t query_width() const { return config_.heads * config_.head_dim; }
  [[nodiscard]] index_t key_width() const { return config_.kv_heads * config_.head_dim; }

  void norm(Backend& backend, const WeightSet& weights, const std::string& name, ConstTensorView x,
            TensorView y) const {
    backend.rms_norm(x, weights[name], config_.norm_epsilon, y);
  }

  void attend(index_t block, Backend& backend, const WeightSet& weights, ConstTensorView input,
              TensorView output) const {
    const std::string at = prefix(block) + "self_attn.";
    const index_t length = input.rows;
    const Tensor q = backend.allocate(length, query_width());
    const Tensor k = backend.allocate(length, key_width());
    const Tensor v = backend.allocate(length, key_width());
    apply_linear(backend, weights, at + "q_proj", input, q.view());
    apply_linear(backend, weights, at + "k_proj", input, k.view());
    apply_linear(backend, weights, at + "v_proj", input, v.view());
    const ConstTensorView cosine = cosine_.cview().middle_rows(0, length);
    const ConstTensorView sine = sine_.cview().middle_rows(0, length);
    backend.rope(q.view(), config_.heads, config_.head_dim, cosine, sine);
    backend.rope(k.view(), config_.kv_heads, config_.head_dim, cosine, sine);
    AttentionShape shape{.heads = config_.heads,
                         .kv_heads = config_.kv_heads,
                         .head_dim = config_.head_dim,
                         .scale = attention_scale(config_.head_dim),
                         .window = {}};
    if (block >= config_.first_windowed_block) shape.window = config_.sliding_window;
    backend.attention(q.cview(), k.cview(), v.cview(), shape, output);
  }

  ModelConfig config_;
  Tensor cosine_;  // [prepared length × head_dim/2]
  Tensor sine_;
};

}  // namespace

std::unique_ptr<Family> make_llama(const ModelConfig& config) {
  return std::make_unique<Llama>(config);
}

}  // namespace quip
