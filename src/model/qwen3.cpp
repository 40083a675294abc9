// Qwen3: Llama with norms of every head's queries and keys.
#include "family_common.hpp"
#include "plan_builder.hpp"

namespace quip {
namespace {

BlockPlan block_of(const ModelConfig& c, index_t number) {
  BlockBuilder block(c, number);
  const Slot x = block.rms_norm("input_layernorm", block.residual());
  const auto heads = block.project("self_attn.", x, c.attention_bias);
  block.norm_by_head("self_attn.q_norm", heads.q, c.heads);
  block.norm_by_head("self_attn.k_norm", heads.k, c.kv_heads);
  block.add_to_residual("self_attn.o_proj", block.attend_by_position(heads), c.attention_bias);
  const Slot y = block.rms_norm("post_attention_layernorm", block.residual());
  block.add_to_residual("mlp.down_proj", block.gated("mlp.", y, false), false);
  return block.finish();
}

void parse_qwen3(const ConfigFields& fields, ModelConfig& config) {
  parse_decoder(fields, {.kv_heads = 32, .head_dim = 128}, config);
  config.attention_bias = fields.flag_or("attention_bias", false);
  parse_late_windows(fields, config);
}

ModelPlan plan_qwen3(const ModelConfig& c, const TensorSource& /*source*/) {
  return plan_decoder(c, block_of);
}

constexpr ModelRow row = {"qwen3", "Qwen3ForCausalLM", parse_qwen3, plan_qwen3};

}  // namespace

std::span<const ModelRow> qwen3_models() { return {&row, 1}; }

}  // namespace quip
