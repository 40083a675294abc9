// Mixtral: Mistral with a mixture of experts in place of the MLP.
#include "family_common.hpp"
#include "plan_builder.hpp"

namespace quip {
namespace {

BlockPlan mixtral_block(const ModelConfig& c, index_t number) {
  BlockBuilder block(c, number);
  const Slot x = block.rms_norm("input_layernorm", block.residual());
  const Slot attention = block.attend_by_position(block.project("self_attn.", x, false));
  block.add_to_residual("self_attn.o_proj", attention, false);
  const Slot y = block.rms_norm("post_attention_layernorm", block.residual());
  block.add_experts({.router = "block_sparse_moe.gate",
                     .experts = "block_sparse_moe.experts.",
                     .gate = "w1",
                     .up = "w3",
                     .down = "w2"},
                    y);
  return block.finish();
}

void parse_mixtral(const ConfigFields& fields, ModelConfig& config) {
  parse_decoder(fields, {.kv_heads = 8, .norm_epsilon = 1e-5, .rope_theta = 1e6}, config);
  if (fields.has("sliding_window")) parse_windows(fields, config);
  parse_router(fields, {.experts = 8, .chosen = 2, .renormalised = true}, config);
  config.expert_intermediate = config.intermediate;
}

ModelPlan plan_mixtral(const ModelConfig& c, const TensorSource& /*source*/) {
  return plan_decoder(c, mixtral_block);
}

}  // namespace

std::span<const ModelRow> mixtral_models() {
  static constexpr ModelRow row = {"mixtral", "MixtralForCausalLM", parse_mixtral, plan_mixtral};
  return {&row, 1};
}

}  // namespace quip
