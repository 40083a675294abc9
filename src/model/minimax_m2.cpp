// MiniMax-M2: Mixtral with norms of all queries and keys of a token, heads of which a part turns,
// and a router of sigmoids.
#include "family_common.hpp"
#include "plan_builder.hpp"

#include "quip/io/json.hpp"

namespace quip {
namespace {

BlockPlan minimax_m2_block(const ModelConfig& c, index_t number) {
  BlockBuilder block(c, number);
  const Slot x = block.rms_norm("input_layernorm", block.residual());
  const auto heads = block.project("self_attn.", x, false);
  block.norm_by_head("self_attn.q_norm", heads.q, 1);
  block.norm_by_head("self_attn.k_norm", heads.k, 1);
  block.add_to_residual("self_attn.o_proj", block.attend_by_position(heads), false);
  const Slot y = block.rms_norm("post_attention_layernorm", block.residual());
  block.add_experts({.router = "block_sparse_moe.gate",
                     .correction = "block_sparse_moe.e_score_correction_bias",
                     .experts = "block_sparse_moe.experts.",
                     .gate = "w1",
                     .up = "w3",
                     .down = "w2",
                     .shared = ""},
                    y);
  return block.finish();
}

/// Refuses what the original's configurations may ask for and transformers does not have.
void require_known_options(const ConfigFields& fields) {
  fields.require_value("scoring_func", "sigmoid");
  fields.require_value("use_qk_norm", true);
  fields.require_value("qk_norm_type", "per_layer");
  fields.require_value("use_routing_bias", true);
  fields.require_value("shared_intermediate_size", 0);
  const nlohmann::json* types = fields.find("attn_type_list");
  if (types == nullptr) return;
  for (const nlohmann::json& type : *types) {
    if (type != 1) fields.reject("attn_type_list", "has {}; quip knows 1, softmax", shown(type));
  }
}

void parse_minimax_m2(const ConfigFields& fields, ModelConfig& config) {
  const DecoderDefaults defaults{
      .kv_heads = 8, .head_dim = 128, .rope_theta = 5e6, .partial_rotation = true};
  if (fields.has("rotary_dim")) {
    config.rope.partial = static_cast<double>(fields.size("rotary_dim")) /
                          static_cast<double>(fields.size_or("head_dim", defaults.head_dim));
  }
  parse_decoder(fields, defaults, config);
  require_known_options(fields);
  refuse_layer_types(fields);
  parse_router(fields,
               {.experts = 256, .chosen = 8, .renormalised = true, .scores = RouterScores::sigmoid},
               config);
  config.expert_intermediate = config.intermediate;
}

ModelPlan plan_minimax_m2(const ModelConfig& c, const TensorSource& /*source*/) {
  return plan_decoder(c, minimax_m2_block);
}

}  // namespace

std::span<const ModelRow> minimax_m2_models() {
  static constexpr ModelRow row = {"minimax_m2", "MiniMaxM2ForCausalLM", parse_minimax_m2,
                                   plan_minimax_m2};
  return {&row, 1};
}

}  // namespace quip
