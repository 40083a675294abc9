// Qwen3: Llama with norms of every head's queries and keys; dense, or with mixtures of experts.
#include <array>
#include <vector>

#include "family_common.hpp"
#include "plan_builder.hpp"

#include "quip/io/json.hpp"

namespace quip {
namespace {

BlockPlan qwen3_block(const ModelConfig& c, index_t number) {
  BlockBuilder block(c, number);
  const Slot x = block.rms_norm("input_layernorm", block.residual());
  const auto heads = block.project("self_attn.", x, c.attention_bias);
  block.norm_by_head("self_attn.q_norm", heads.q, c.heads);
  block.norm_by_head("self_attn.k_norm", heads.k, c.kv_heads);
  block.add_to_residual("self_attn.o_proj", block.attend_by_position(heads), c.attention_bias);
  block.add_experts_or_mlp({}, block.rms_norm("post_attention_layernorm", block.residual()));
  return block.finish();
}

void parse_qwen3(const ConfigFields& fields, ModelConfig& config) {
  parse_decoder(fields, {.kv_heads = 32, .head_dim = 128}, config);
  config.attention_bias = fields.flag_or("attention_bias", false);
  parse_late_windows(fields, config);
}

/// Reads which blocks have one MLP: those that are listed, and all but every so many-th.
void parse_dense_blocks(const ConfigFields& fields, ModelConfig& config) {
  const index_t step = fields.size_or("decoder_sparse_step", 1);
  for (index_t b = 0; b < config.blocks; ++b) config.dense.push_back((b + 1) % step != 0);
  const nlohmann::json* listed = fields.find("mlp_only_layers");
  if (listed == nullptr) return;
  if (!listed->is_array()) fields.reject("mlp_only_layers", "is {}, not a list", shown(*listed));
  for (const nlohmann::json& block : *listed) {
    if (!block.is_number_unsigned()) {
      fields.reject("mlp_only_layers", "has {}, not a block's number", shown(block));
    }
    if (block < config.blocks) config.dense[block.get<std::size_t>()] = true;
  }
}

void parse_qwen3_moe(const ConfigFields& fields, ModelConfig& config) {
  parse_decoder(fields, {.kv_heads = 4}, config);
  config.attention_bias = fields.flag_or("attention_bias", false);
  if (fields.flag_or("use_sliding_window", false)) parse_windows(fields, config);
  parse_router(fields, {.experts = 128, .chosen = 8}, config);
  config.router.renormalised = fields.flag_or("norm_topk_prob", false);
  config.expert_intermediate = fields.size_or("moe_intermediate_size", 768);
  parse_dense_blocks(fields, config);
}

ModelPlan plan_qwen3(const ModelConfig& c, const TensorSource& /*source*/) {
  return plan_decoder(c, qwen3_block);
}

}  // namespace

std::span<const ModelRow> qwen3_models() {
  static constexpr std::array<ModelRow, 2> rows = {
      {{"qwen3", "Qwen3ForCausalLM", parse_qwen3, plan_qwen3},
       {"qwen3_moe", "Qwen3MoeForCausalLM", parse_qwen3_moe, plan_qwen3}}};
  return rows;
}

}  // namespace quip
