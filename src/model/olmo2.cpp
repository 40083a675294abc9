// OLMo 2: norms after attention and MLP instead of before, and of all queries and keys of a token.
#include "family_common.hpp"
#include "plan_builder.hpp"

namespace quip {
namespace {

BlockPlan olmo2_block(const ModelConfig& c, index_t number) {
  BlockBuilder block(c, number);
  const Slot x = block.copy(block.residual(), "attention_input");
  const auto heads = block.project("self_attn.", x, c.attention_bias);
  block.norm_by_head("self_attn.q_norm", heads.q, 1);
  block.norm_by_head("self_attn.k_norm", heads.k, 1);
  const Slot attention = block.attend_by_position(heads);
  block.add_normed("self_attn.o_proj", attention, c.attention_bias, "post_attention_layernorm");
  const Slot y = block.gated("mlp.", block.copy(block.residual(), "mlp_input"), false);
  block.add_normed("mlp.down_proj", y, false, "post_feedforward_layernorm");
  return block.finish();
}

void parse_olmo2(const ConfigFields& fields, ModelConfig& config) {
  parse_decoder(fields, {.norm_epsilon = 1e-5}, config);
  config.attention_bias = fields.flag_or("attention_bias", false);
}

ModelPlan plan_olmo2(const ModelConfig& c, const TensorSource& /*source*/) {
  return plan_decoder(c, olmo2_block);
}

}  // namespace

std::span<const ModelRow> olmo2_models() {
  static constexpr ModelRow row = {"olmo2", "Olmo2ForCausalLM", parse_olmo2, plan_olmo2};
  return {&row, 1};
}

}  // namespace quip
