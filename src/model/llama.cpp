// Llama, and what differs from it by biases and attention windows only: Mistral, Qwen2.
#include <array>

#include "family_common.hpp"
#include "plan_builder.hpp"

namespace quip {
namespace {

BlockPlan llama_block(const ModelConfig& c, index_t number) {
  BlockBuilder block(c, number);
  const Slot x = block.rms_norm("input_layernorm", block.residual());
  const auto heads = block.project("self_attn.", x, c.attention_bias);
  block.add_to_residual("self_attn.o_proj", block.attend_by_position(heads),
                        c.attention_output_bias);
  const Slot y = block.rms_norm("post_attention_layernorm", block.residual());
  block.add_to_residual("mlp.down_proj", block.gated("mlp.", y, c.mlp_bias), c.mlp_bias);
  return block.finish();
}

void parse_llama(const ConfigFields& fields, ModelConfig& config) {
  parse_decoder(fields, {}, config);
  config.attention_bias = fields.flag_or("attention_bias", false);
  config.attention_output_bias = config.attention_bias;
  config.mlp_bias = fields.flag_or("mlp_bias", false);
}

void parse_mistral(const ConfigFields& fields, ModelConfig& config) {
  parse_decoder(fields, {.kv_heads = 8}, config);
  parse_windows(fields, config);
}

void parse_qwen2(const ConfigFields& fields, ModelConfig& config) {
  parse_decoder(fields, {.kv_heads = 32}, config);
  config.attention_bias = true;  // q, k and v always, o never
  parse_late_windows(fields, config);
}

ModelPlan plan_llama(const ModelConfig& c, const TensorSource& /*source*/) {
  return plan_decoder(c, llama_block);
}

}  // namespace

std::span<const ModelRow> llama_models() {
  static constexpr std::array<ModelRow, 3> rows = {
      {{"llama", "LlamaForCausalLM", parse_llama, plan_llama},
       {"mistral", "MistralForCausalLM", parse_mistral, plan_llama},
       {"qwen2", "Qwen2ForCausalLM", parse_qwen2, plan_llama}}};
  return rows;
}

}  // namespace quip
