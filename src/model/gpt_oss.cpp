// gpt-oss: attention with sinks and windows on every other block, experts that are stacked in one
// tensor, with biases and a clamped activation.
#include <cmath>

#include "family_common.hpp"
#include "plan_builder.hpp"

namespace quip {
namespace {

/// Gates and up-projections take turns among the outputs of one tensor.
void add_gpt_oss_experts(BlockBuilder& block, Slot x) {
  const ModelConfig& c = block.config();
  const RouterShape& shape = c.router;
  const index_t width = c.expert_intermediate;
  const std::string stored = c.experts_by_outputs ? "_blocks" : "";
  const StackedExperts both{"mlp.experts.gate_up_proj" + stored, shape.experts, c.hidden, 2 * width,
                            c.experts_by_outputs};
  const StackedExperts down{"mlp.experts.down_proj" + stored, shape.experts, width, c.hidden,
                            c.experts_by_outputs};
  const std::string both_biases = "mlp.experts.gate_up_proj_bias";
  const Slot routes = block.route(block.router("mlp.router", x, shape.experts, true), shape);
  for (index_t e = 0; e < shape.experts; ++e) {
    const std::string expert = fmt::format("mlp.experts.{}.", e);
    const Slot rows = block.gather(x, routes, e, shape);
    block.store_next(both.part(e, 0, 2), both.bias(both_biases, e, 0, 2));
    const Slot gates = block.linear(expert + "gate_proj", rows, width, true);
    block.store_next(both.part(e, 1, 2), both.bias(both_biases, e, 1, 2));
    block.gate_clamped(gates, block.linear(expert + "up_proj", rows, width, true), c.swiglu);
    block.store_next(down.part(e), down.bias("mlp.experts.down_proj_bias", e));
    block.scatter(block.linear(expert + "down_proj", gates, c.hidden, true), routes,
                  block.residual());
  }
}

BlockPlan gpt_oss_block(const ModelConfig& c, index_t number) {
  BlockBuilder block(c, number);
  const Slot x = block.rms_norm("input_layernorm", block.residual());
  const auto heads = block.project("self_attn.", x, c.attention_bias);
  block.add_to_residual("self_attn.o_proj", block.attend_by_position(heads, "self_attn.sinks"),
                        c.attention_bias);
  add_gpt_oss_experts(block, block.rms_norm("post_attention_layernorm", block.residual()));
  return block.finish();
}

void parse_gpt_oss(const ConfigFields& fields, ModelConfig& config) {
  parse_decoder(fields, {.kv_heads = 8, .head_dim = 64, .norm_epsilon = 1e-5, .rope_theta = 150000},
                config);
  if (!fields.has("rope_parameters") && !fields.has("rope_scaling")) {
    config.rope.scaling = {.kind = RopeScaling::Kind::yarn,
                           .factor = 32.0,
                           .original_max_position = 4096.0,
                           .truncate = false,
                           .attention_factor = 0.1 * std::log(32.0) + 1.0};
  }
  config.attention_bias = fields.flag_or("attention_bias", true);
  config.swiglu = {.alpha = static_cast<float>(fields.positive_or("swiglu_alpha", 1.702)),
                   .limit = static_cast<float>(fields.positive_or("swiglu_limit", 7.0))};
  parse_router(fields, {.experts = 128, .chosen = 4, .renormalised = true}, config);
  config.expert_intermediate = config.intermediate;
  parse_windows(fields, config, 128);
  if (!config.windowed.empty()) return;
  for (index_t b = 0; b < config.blocks; ++b) config.windowed.push_back(b % 2 == 0);
}

/// True if some experts are stored by outputs: the blocks of mxfp4 go along the inputs.
bool has_blocks(const ModelConfig& c, const TensorSource& source) {
  if (c.format.kind != WeightFormat::Kind::mxfp4) return false;
  for (index_t b = 0; b < c.blocks; ++b) {
    const std::string experts = fmt::format("{}layers.{}.mlp.experts.", c.root, b);
    if (source.contains(experts + "gate_up_proj_blocks")) return true;
    if (source.contains(experts + "down_proj_blocks")) return true;
  }
  return false;
}

ModelPlan plan_gpt_oss(const ModelConfig& c, const TensorSource& source) {
  ModelConfig stored = c;
  stored.experts_by_outputs = has_blocks(c, source);
  return plan_decoder(stored, gpt_oss_block);
}

}  // namespace

std::span<const ModelRow> gpt_oss_models() {
  static constexpr ModelRow row = {"gpt_oss", "GptOssForCausalLM", parse_gpt_oss, plan_gpt_oss};
  return {&row, 1};
}

}  // namespace quip
