// Phi-3 and Phi-4: Llama whose q, k, v and gate, up are each stored as one tensor.
#include "family_common.hpp"
#include "plan_builder.hpp"

namespace quip {
namespace {

BlockPlan phi3_block(const ModelConfig& c, index_t number) {
  BlockBuilder block(c, number);
  const Slot x = block.rms_norm("input_layernorm", block.residual());
  block.share_tensor("self_attn.qkv_proj", (c.heads + 2 * c.kv_heads) * c.head_dim, c.hidden);
  const Slot attention = block.attend_by_position(block.project("self_attn.", x, false));
  block.add_to_residual("self_attn.o_proj", attention, false);
  const Slot y = block.rms_norm("post_attention_layernorm", block.residual());
  block.share_tensor("mlp.gate_up_proj", 2 * c.intermediate, c.hidden);
  block.add_to_residual("mlp.down_proj", block.gated("mlp.", y, false), false);
  return block.finish();
}

void parse_phi3(const ConfigFields& fields, ModelConfig& config) {
  parse_decoder(fields, {.norm_epsilon = 1e-5, .partial_rotation = true}, config);
  if (fields.has("sliding_window")) parse_windows(fields, config);
}

ModelPlan plan_phi3(const ModelConfig& c, const TensorSource& /*source*/) {
  return plan_decoder(c, phi3_block);
}

}  // namespace

std::span<const ModelRow> phi3_models() {
  static constexpr ModelRow row = {"phi3", "Phi3ForCausalLM", parse_phi3, plan_phi3};
  return {&row, 1};
}

}  // namespace quip
