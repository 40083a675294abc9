// Llama, and what differs from it by biases and attention windows only: Mistral, Qwen2.
#include <algorithm>
#include <array>
#include <utility>

#include "family_common.hpp"

#include "quip/core/error.hpp"
#include "quip/io/json.hpp"
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
    return {{final_norm, {config_.hidden}}};
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
    norm(backend, ends, final_norm, residual, result.view());
    return result;
  }

 private:
  static constexpr const char* final_norm = "model.norm.weight";

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
    const AttentionShape shape{.heads = config_.heads,
                               .kv_heads = config_.kv_heads,
                               .head_dim = config_.head_dim,
                               .scale = attention_scale(config_.head_dim),
                               .window = config_.window(block)};
    backend.attention(q.cview(), k.cview(), v.cview(), shape, output);
  }

  ModelConfig config_;
  Tensor cosine_;  // [prepared length × head_dim/2]
  Tensor sine_;
};

/// The fields of all members; `absent_kv_heads`: how many there are if the field is absent, 0 for
/// as many as heads.
void parse_llama_family(const ConfigFields& fields, index_t absent_kv_heads, ModelConfig& config) {
  parse_sizes(fields, "intermediate_size", config);
  const bool kv_by_default = absent_kv_heads == 0 || fields.is_null("num_key_value_heads");
  config.kv_heads =
      fields.size_or("num_key_value_heads", kv_by_default ? config.heads : absent_kv_heads);
  if (config.heads % config.kv_heads != 0) {
    fields.reject("num_key_value_heads", "is {}, which does not divide num_attention_heads = {}",
                  config.kv_heads, config.heads);
  }
  if (!fields.has("head_dim")) require_equal_heads(fields, config);
  config.head_dim = fields.size_or("head_dim", config.hidden / config.heads);
  config.embedding_dim = config.hidden;
  config.norm_epsilon = static_cast<float>(fields.positive_or("rms_norm_eps", 1e-6));
  config.tied_head = fields.flag_or("tie_word_embeddings", false);
  parse_activation(fields, "hidden_act", "silu", config);
  parse_rope(fields, config);
}

void parse_llama(const ConfigFields& fields, ModelConfig& config) {
  parse_llama_family(fields, 0, config);
  config.attention_bias = fields.flag_or("attention_bias", false);
  config.attention_output_bias = config.attention_bias;
  config.mlp_bias = fields.flag_or("mlp_bias", false);
}

/// Reads the window's width and, where config.json lists the blocks' types, which have it.
void parse_windows(const ConfigFields& fields, ModelConfig& config) {
  if (fields.is_null("sliding_window")) return;
  config.sliding_window = fields.size_or("sliding_window", 4096);
  const nlohmann::json* types = fields.find("layer_types");
  if (types == nullptr) return;
  if (!types->is_array() || static_cast<index_t>(types->size()) != config.blocks) {
    fields.reject("layer_types", "does not list one type for each of the {} blocks", config.blocks);
  }
  for (const nlohmann::json& type : *types) {
    if (type != "full_attention" && type != "sliding_attention") {
      fields.reject("layer_types", "has {}; quip knows full_attention, sliding_attention",
                    shown(type));
    }
    config.windowed.push_back(type == "sliding_attention");
  }
}

void parse_mistral(const ConfigFields& fields, ModelConfig& config) {
  parse_llama_family(fields, 8, config);
  parse_windows(fields, config);
}

void parse_qwen2(const ConfigFields& fields, ModelConfig& config) {
  parse_llama_family(fields, 32, config);
  config.attention_bias = true;  // q, k and v always, o never
  if (!fields.flag_or("use_sliding_window", false)) return;
  parse_windows(fields, config);
  if (!config.windowed.empty()) return;
  const index_t first = std::min(config.blocks, fields.count_or("max_window_layers", 28));
  config.windowed.assign(static_cast<std::size_t>(first), false);
}

std::unique_ptr<Family> make_llama(const ModelConfig& config, const TensorSource& /*source*/) {
  return std::make_unique<Llama>(config);
}

constexpr std::array<ModelRow, 3> llama_table = {
    {{"llama", "LlamaForCausalLM", parse_llama, make_llama},
     {"mistral", "MistralForCausalLM", parse_mistral, make_llama},
     {"qwen2", "Qwen2ForCausalLM", parse_qwen2, make_llama}}};

}  // namespace

std::span<const ModelRow> llama_models() { return llama_table; }

}  // namespace quip
