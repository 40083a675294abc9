// Llama, and what differs from it by biases and attention windows only: Mistral, Qwen2.
#include <algorithm>
#include <array>

#include "family_common.hpp"
#include "plan_builder.hpp"

#include "quip/io/json.hpp"
#include "quip/model/rope.hpp"

namespace quip {
namespace {

constexpr const char* layers = "model.layers.";

BlockPlan block_of(const ModelConfig& c, index_t number) {
  BlockBuilder block(c, layers, number);
  const Slot x = block.rms_norm("input_layernorm", block.residual());
  const auto heads = block.project("self_attn.", x, c.attention_bias);
  block.add_to_residual("self_attn.o_proj", block.attend_by_position(heads),
                        c.attention_output_bias);
  const Slot y = block.rms_norm("post_attention_layernorm", block.residual());
  block.add_to_residual("mlp.down_proj", block.gated("mlp.", y, c.mlp_bias), c.mlp_bias);
  return block.finish();
}

ModelPlan plan_llama(const ModelConfig& c, const TensorSource& /*source*/) {
  ModelPlan plan;
  plan.embedding = {"model.embed_tokens.weight", {c.vocabulary, c.hidden}};
  plan.head = head_of(c, plan.embedding);
  plan.ropes = {rope_frequencies(c)};
  PlanBuilder embed(c, "model.");
  const Slot rows = embed.input("embedding", c.hidden);
  plan.embed = embed.finish(embed.copy(rows, "residual"));
  for (index_t b = 0; b < c.blocks; ++b) plan.blocks.push_back(block_of(c, b));
  PlanBuilder finish(c, "model.");
  const Slot residual = finish.input("residual", c.hidden);
  plan.finish = finish.finish(finish.rms_norm("norm", residual));
  return plan;
}

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

constexpr std::array<ModelRow, 3> llama_table = {
    {{"llama", "LlamaForCausalLM", parse_llama, plan_llama},
     {"mistral", "MistralForCausalLM", parse_mistral, plan_llama},
     {"qwen2", "Qwen2ForCausalLM", parse_qwen2, plan_llama}}};

}  // namespace

std::span<const ModelRow> llama_models() { return llama_table; }

}  // namespace quip
