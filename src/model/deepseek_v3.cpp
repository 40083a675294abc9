// DeepSeek-V3 and -R1: multi-head latent attention, mixtures of experts chosen by groups.
#include <cmath>

#include "family_common.hpp"
#include "plan_builder.hpp"

namespace quip {
namespace {

constexpr float latent_epsilon = 1e-6F;  // whatever rms_norm_eps says

/// Queries, keys and values come from projections to few channels. A head's query and key begin
/// with channels that stay and end with those that turn; all keys have the latter in common.
Slot attend_latently(BlockBuilder& block, Slot x, index_t number) {
  const ModelConfig& c = block.config();
  const LatentAttention& latent = c.latent;
  const index_t turning = c.head_dim;
  const index_t width = latent.plain + turning;
  const RopeShape in_heads{.heads = c.heads,
                           .head_dim = width,
                           .first = latent.plain,
                           .interleaved = c.rope.interleaved};
  Slot query = x;
  if (latent.query_rank > 0) {
    query = block.linear("self_attn.q_a_proj", x, latent.query_rank, c.attention_bias);
    block.norm_by_head("self_attn.q_a_layernorm", query, 1, latent_epsilon);
  }
  const Slot both =
      block.linear("self_attn.kv_a_proj_with_mqa", x, latent.rank + turning, c.attention_bias);
  const Slot common = block.make("common_keys", turning);
  block.copy_channels({.from_first = latent.rank, .count = turning, .from = both, .to = common});
  block.rope(common, {.heads = 1, .head_dim = turning, .interleaved = c.rope.interleaved});
  const Slot x_latent = block.make("latent", latent.rank);
  block.copy_channels({.count = latent.rank, .from = both, .to = x_latent});
  block.norm_by_head("self_attn.kv_a_layernorm", x_latent, 1, latent_epsilon);

  const Slot q = block.linear(latent.query_rank > 0 ? "self_attn.q_b_proj" : "self_attn.q_proj",
                              query, c.heads * width, false);
  block.rope(q, in_heads);
  const Slot expanded =
      block.linear("self_attn.kv_b_proj", x_latent, c.heads * (latent.plain + latent.value), false);
  const Slot k = block.make("keys", c.heads * width);
  block.copy_channels({.heads = c.heads, .count = latent.plain, .from = expanded, .to = k});
  block.copy_channels({.heads = c.heads,
                       .common = true,
                       .to_first = latent.plain,
                       .count = turning,
                       .from = common,
                       .to = k});
  const Slot v = block.make("values", c.heads * latent.value);
  block.copy_channels({.heads = c.heads,
                       .from_first = latent.plain,
                       .count = latent.value,
                       .from = expanded,
                       .to = v});
  AttentionShape shape = block.attention_shape(number);
  shape.head_dim = width;
  shape.value_dim = latent.value;
  return block.attend(q, k, v, shape);
}

BlockPlan deepseek_v3_block(const ModelConfig& c, index_t number) {
  BlockBuilder block(c, number);
  const Slot x = block.rms_norm("input_layernorm", block.residual());
  block.add_to_residual("self_attn.o_proj", attend_latently(block, x, number), c.attention_bias);
  const Slot y = block.rms_norm("post_attention_layernorm", block.residual());
  block.add_experts_or_mlp({.correction = "mlp.gate.e_score_correction_bias"}, y);
  return block.finish();
}

void parse_deepseek_v3(const ConfigFields& fields, ModelConfig& config) {
  const index_t turning = fields.size_or("qk_rope_head_dim", 64);
  parse_decoder(fields, {.head_dim = turning}, config);
  fields.require_value("head_dim", turning);
  fields.require_value("num_key_value_heads", config.heads);
  fields.require_value("moe_layer_freq", 1);
  refuse_layer_types(fields);
  config.attention_bias = fields.flag_or("attention_bias", false);
  config.rope.interleaved = fields.flag_or("rope_interleave", true);
  config.latent = {
      .query_rank = fields.is_null("q_lora_rank") ? 0 : fields.size_or("q_lora_rank", 1536),
      .rank = fields.size_or("kv_lora_rank", 512),
      .plain = fields.size_or("qk_nope_head_dim", 128),
      .value = fields.size_or("v_head_dim", 128)};
  const double magnitude = config.rope.scaling.score_factor;
  config.attention_scale =
      magnitude * magnitude / std::sqrt(static_cast<double>(config.latent.plain + turning));
  config.expert_intermediate = fields.size_or("moe_intermediate_size", 2048);
  parse_grouped_router(
      fields, {.experts = 256, .chosen = 8, .groups = 8, .chosen_groups = 4, .factor = 2.5F}, 3,
      config);
}

ModelPlan plan_deepseek_v3(const ModelConfig& c, const TensorSource& /*source*/) {
  return plan_decoder(c, deepseek_v3_block);
}

}  // namespace

std::span<const ModelRow> deepseek_v3_models() {
  static constexpr ModelRow row = {"deepseek_v3", "DeepseekV3ForCausalLM", parse_deepseek_v3,
                                   plan_deepseek_v3};
  return {&row, 1};
}

}  // namespace quip
