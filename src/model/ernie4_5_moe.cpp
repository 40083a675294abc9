// ERNIE 4.5 with mixtures of experts: Llama's attention with neighbouring channels for pairs, a
// router whose choice is corrected, and experts that every token has.
#include "family_common.hpp"
#include "plan_builder.hpp"

namespace quip {
namespace {

BlockPlan ernie4_5_moe_block(const ModelConfig& c, index_t number) {
  BlockBuilder block(c, number);
  const Slot x = block.rms_norm("input_layernorm", block.residual());
  const Slot attention = block.attend_by_position(block.project("self_attn.", x, false));
  block.add_to_residual("self_attn.o_proj", attention, false);
  const Slot y = block.rms_norm("post_attention_layernorm", block.residual());
  block.add_experts_or_mlp(
      {.correction = "mlp.moe_statics.e_score_correction_bias", .correction_is_row = true}, y);
  return block.finish();
}

void parse_ernie4_5_moe(const ConfigFields& fields, ModelConfig& config) {
  parse_decoder(fields, {.kv_heads = 4, .norm_epsilon = 1e-5, .tied_head = true, .rope_theta = 5e5},
                config);
  fields.require_value("use_bias", false);
  refuse_layer_types(fields);
  config.rope.interleaved = true;
  parse_router(fields, {.experts = 64, .chosen = 6, .renormalised = true}, config);
  config.router.least_sum = static_cast<float>(fields.positive_or("moe_norm_min", 1e-12));
  config.expert_intermediate = fields.size_or("moe_intermediate_size", 1536);
  config.shared_intermediate =
      fields.count_or("moe_num_shared_experts", 2) * config.expert_intermediate;
  const index_t first = fields.count_or("moe_layer_start_index", 1);
  const index_t step = fields.size_or("moe_layer_interval", 1);
  index_t last = config.blocks - 1;
  if (fields.has("moe_layer_end_index") && *fields.find("moe_layer_end_index") != -1) {
    last = fields.count_or("moe_layer_end_index", last);
  }
  for (index_t b = 0; b < config.blocks; ++b) {
    config.dense.push_back(b < first || b > last || (b + 1) % step != 0);
  }
}

ModelPlan plan_ernie4_5_moe(const ModelConfig& c, const TensorSource& /*source*/) {
  return plan_decoder(c, ernie4_5_moe_block);
}

}  // namespace

std::span<const ModelRow> ernie4_5_moe_models() {
  static constexpr ModelRow row = {"ernie4_5_moe", "Ernie4_5_MoeForCausalLM", parse_ernie4_5_moe,
                                   plan_ernie4_5_moe};
  return {&row, 1};
}

}  // namespace quip
