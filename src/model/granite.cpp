// Granite: Llama with four multipliers.
#include "family_common.hpp"
#include "plan_builder.hpp"

namespace quip {
namespace {

void add_scaled(BlockBuilder& block, const char* name, Slot from, bool bias) {
  const Slot x = block.linear(name, from, block.config().hidden, bias);
  block.scale(x, block.config().residual_scale);
  block.add(x, block.residual());
}

BlockPlan granite_block(const ModelConfig& c, index_t number) {
  BlockBuilder block(c, number);
  const Slot x = block.rms_norm("input_layernorm", block.residual());
  const auto heads = block.project("self_attn.", x, c.attention_bias);
  add_scaled(block, "self_attn.o_proj", block.attend_by_position(heads), c.attention_bias);
  const Slot y = block.rms_norm("post_attention_layernorm", block.residual());
  add_scaled(block, "mlp.down_proj", block.gated("mlp.", y, c.mlp_bias), c.mlp_bias);
  return block.finish();
}

void parse_granite(const ConfigFields& fields, ModelConfig& config) {
  parse_decoder(fields, {}, config);
  config.attention_bias = fields.flag_or("attention_bias", false);
  config.mlp_bias = fields.flag_or("mlp_bias", false);
  config.embedding_scale = fields.positive_or("embedding_multiplier", 1.0);
  config.attention_scale = fields.positive_or("attention_multiplier", 1.0);
  config.residual_scale = fields.positive_or("residual_multiplier", 1.0);
  config.head_scale = 1.0 / fields.positive_or("logits_scaling", 1.0);
}

ModelPlan plan_granite(const ModelConfig& c, const TensorSource& /*source*/) {
  return plan_decoder(c, granite_block);
}

}  // namespace

std::span<const ModelRow> granite_models() {
  static constexpr ModelRow row = {"granite", "GraniteForCausalLM", parse_granite, plan_granite};
  return {&row, 1};
}

}  // namespace quip
