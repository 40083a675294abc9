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

class Llama final : public Decoder {
 public:
  explicit Llama(ModelConfig config) : Decoder(std::move(config)) {}

  [[nodiscard]] std::vector<LinearSpec> linears(index_t block) const override {
    const ModelConfig& c = config();
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
        {prefix(block) + "input_layernorm.weight", {config().hidden}},
        {prefix(block) + "post_attention_layernorm.weight", {config().hidden}}};
    append_biases(linears(block), tensors);
    return tensors;
  }

  [[nodiscard]] std::vector<TensorSpec> end_tensors() const override {
    return {{final_norm, {config().hidden}}};
  }
  [[nodiscard]] TensorSpec embedding() const override {
    return {"model.embed_tokens.weight", {config().vocabulary, config().hidden}};
  }

  void prepare(Backend& backend, index_t length) override {
    require_length(config(), length);
    const RopeTables tables = rope_tables(rope_frequencies(config()), length);
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
        attend(block, backend, project(at + "self_attn.", backend, weights, input), output);
        return;
      case 2:
        add_linear(backend, weights, at + "self_attn.o_proj", input, residual);
        norm(backend, weights, at + "post_attention_layernorm.weight", residual, output);
        return;
      case 3: {
        const Tensor up = backend.allocate(input.rows, config().intermediate);
        apply_linear(backend, weights, at + "mlp.gate_proj", input, output);
        apply_linear(backend, weights, at + "mlp.up_proj", input, up.view());
        backend.gated_activate(config().activation, output, up.cview());
        return;
      }
      case 4:
        add_linear(backend, weights, at + "mlp.down_proj", input, residual);
        return;
      default:
        fail("a {} block has no stage {}", config().model_type, stage);
    }
  }

  [[nodiscard]] index_t scratch_width(int stage) const override {
    return stage == 3 ? config().intermediate : Decoder::scratch_width(stage);
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

  void norm(Backend& backend, const WeightSet& weights, const std::string& name, ConstTensorView x,
            TensorView y) const {
    backend.rms_norm(x, weights[name], config().norm_epsilon, y);
  }

  void attend(index_t block, Backend& backend, const Heads& heads, TensorView output) const {
    const ConstTensorView cosine = cosine_.cview().middle_rows(0, output.rows);
    const ConstTensorView sine = sine_.cview().middle_rows(0, output.rows);
    backend.rope(heads.q.view(), config().heads, config().head_dim, cosine, sine);
    backend.rope(heads.k.view(), config().kv_heads, config().head_dim, cosine, sine);
    attention(block, backend, heads, output);
  }

  Tensor cosine_;  ///< [prepared length × head_dim/2]
  Tensor sine_;
};

/// Reads the fields of all members. `absent_kv_heads` is their number if the field is absent; 0: as
/// many as heads.
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
  config.windowed.assign(at(first), false);
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
