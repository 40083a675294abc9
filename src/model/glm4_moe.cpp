// GLM-4.5: Qwen3's mixtures of experts with DeepSeek's router, and heads of which a part turns.
#include "family_common.hpp"
#include "plan_builder.hpp"

namespace quip {
namespace {

BlockPlan glm4_moe_block(const ModelConfig& c, index_t number) {
  BlockBuilder block(c, number);
  const Slot x = block.rms_norm("input_layernorm", block.residual());
  const auto heads = block.project("self_attn.", x, c.attention_bias);
  if (c.head_norms) {
    block.norm_by_head("self_attn.q_norm", heads.q, c.heads);
    block.norm_by_head("self_attn.k_norm", heads.k, c.kv_heads);
  }
  block.add_to_residual("self_attn.o_proj", block.attend_by_position(heads), false);
  const Slot y = block.rms_norm("post_attention_layernorm", block.residual());
  block.add_experts_or_mlp({.correction = "mlp.gate.e_score_correction_bias"}, y);
  return block.finish();
}

void parse_glm4_moe(const ConfigFields& fields, ModelConfig& config) {
  config.rope.partial = 0.5;
  parse_decoder(fields, {.kv_heads = 8, .norm_epsilon = 1e-5, .partial_rotation = true}, config);
  refuse_layer_types(fields);
  config.attention_bias = fields.flag_or("attention_bias", false);
  config.head_norms = fields.flag_or("use_qk_norm", false);
  config.expert_intermediate = fields.size_or("moe_intermediate_size", 1408);
  parse_grouped_router(fields, {.experts = 128, .chosen = 8}, 1, config);
}

ModelPlan plan_glm4_moe(const ModelConfig& c, const TensorSource& /*source*/) {
  return plan_decoder(c, glm4_moe_block);
}

}  // namespace

std::span<const ModelRow> glm4_moe_models() {
  static constexpr ModelRow row = {"glm4_moe", "Glm4MoeForCausalLM", parse_glm4_moe, plan_glm4_moe};
  return {&row, 1};
}

}  // namespace quip
