// Llama 4: attention within chunks by position and, on some blocks, to everything without; experts
// that are stacked in one tensor and whose weights scale what they are given.
#include "family_common.hpp"
#include "plan_builder.hpp"

#include "quip/io/json.hpp"

namespace quip {
namespace {

constexpr int temperature_table = 1;

void add_llama4_experts(BlockBuilder& block, Slot x) {
  const ModelConfig& c = block.config();
  const RouterShape& shape = c.router;
  const index_t width = c.expert_intermediate;
  const std::string shared = "feed_forward.shared_expert.";
  block.add_to_residual(shared + "down_proj", block.gated(shared, x, false, width), false);
  const StackedExperts both{"feed_forward.experts.gate_up_proj", shape.experts, c.hidden,
                            2 * width};
  const StackedExperts down{"feed_forward.experts.down_proj", shape.experts, width, c.hidden};
  const Slot routes =
      block.route(block.router("feed_forward.router", x, shape.experts, false), shape);
  for (index_t e = 0; e < shape.experts; ++e) {
    const std::string expert = fmt::format("feed_forward.experts.{}.", e);
    const Slot rows = block.gather(x, routes, e, shape, true);
    block.store_next(both.part(e, 0));
    const Slot gates = block.linear(expert + "gate_proj", rows, width, false);
    block.store_next(both.part(e, width));
    block.gate(gates, block.linear(expert + "up_proj", rows, width, false));
    block.store_next(down.part(e));
    block.scatter(block.linear(expert + "down_proj", gates, c.hidden, false), routes,
                  block.residual(), false);
  }
}

BlockPlan llama4_block(const ModelConfig& c, index_t number) {
  BlockBuilder block(c, number);
  const Slot x = block.rms_norm("input_layernorm", block.residual());
  const auto heads = block.project("self_attn.", x, c.attention_bias);
  if (c.turns(number)) {
    block.rope(heads);
    if (c.head_norms) {
      block.norm_by_head("", heads.q, c.heads);
      block.norm_by_head("", heads.k, c.kv_heads);
    }
  } else if (c.temperature) {
    block.rope(heads.q, {.heads = c.heads, .head_dim = c.head_dim}, temperature_table);
  }
  block.add_to_residual("self_attn.o_proj", block.attend(heads), c.attention_bias);
  const Slot y = block.rms_norm("post_attention_layernorm", block.residual());
  if (c.has_experts(number)) {
    add_llama4_experts(block, y);
  } else {
    block.add_to_residual("feed_forward.down_proj", block.gated("feed_forward.", y, false), false);
  }
  return block.finish();
}

/// Reads a list of `count` numbers or more; empty: there is none.
std::vector<index_t> numbers_of(const ConfigFields& fields, const char* name) {
  const nlohmann::json* listed = fields.find(name);
  std::vector<index_t> numbers;
  if (listed == nullptr) return numbers;
  if (!listed->is_array()) fields.reject(name, "is {}, not a list", shown(*listed));
  for (const nlohmann::json& number : *listed) {
    if (!number.is_number_unsigned()) fields.reject(name, "has {}", shown(number));
    numbers.push_back(number.get<index_t>());
  }
  return numbers;
}

/// Reads which blocks turn their heads, and which attend within chunks: those, unless they are
/// listed by themselves.
void parse_blocks(const ConfigFields& fields, ModelConfig& config) {
  const index_t interval = fields.size_or("no_rope_layer_interval", 4);
  const std::vector<index_t> turning = numbers_of(fields, "no_rope_layers");
  if (!turning.empty() && std::ssize(turning) < config.blocks) {
    fields.reject("no_rope_layers", "lists {} of {} blocks", turning.size(), config.blocks);
  }
  for (index_t b = 0; b < config.blocks; ++b) {
    config.turning.push_back(turning.empty() ? (b + 1) % interval != 0 : turning[at(b)] != 0);
  }
  config.chunked = config.turning;
  const nlohmann::json* types = fields.find("layer_types");
  if (types == nullptr) return;
  if (!types->is_array() || std::ssize(*types) != config.blocks) {
    fields.reject("layer_types", "does not list one type for each of the {} blocks", config.blocks);
  }
  for (index_t b = 0; b < config.blocks; ++b) {
    const nlohmann::json& type = (*types)[at(b)];
    if (type != "full_attention" && type != "chunked_attention") {
      fields.reject("layer_types", "has {}; quip knows full_attention, chunked_attention",
                    shown(type));
    }
    config.chunked[at(b)] = type == "chunked_attention";
  }
}

/// Reads a switch that some configurations write as a number.
bool switch_of(const ConfigFields& fields, const char* name, bool fallback) {
  const nlohmann::json* value = fields.find(name);
  if (value != nullptr && value->is_number()) return *value != 0;
  return fields.flag_or(name, fallback);
}

void parse_experts(const ConfigFields& fields, ModelConfig& config) {
  parse_router(fields, {.experts = 16, .chosen = 1, .scores = RouterScores::sigmoid}, config);
  config.expert_intermediate = config.intermediate;
  config.intermediate = fields.size_or("intermediate_size_mlp", 16384);
  const index_t step = fields.size_or("interleave_moe_layer_step", 1);
  const bool listed = fields.has("moe_layers");
  for (index_t b = 0; b < config.blocks; ++b) {
    config.dense.push_back(listed || (b + 1) % step != 0);
  }
  for (const index_t block : numbers_of(fields, "moe_layers")) {
    if (block < config.blocks) config.dense[at(block)] = false;
  }
}

void parse_llama4(const ConfigFields& fields, ModelConfig& config) {
  parse_decoder(fields, {.kv_heads = 8, .head_dim = 128, .norm_epsilon = 1e-5, .rope_theta = 5e5},
                config);
  config.rope.interleaved = true;
  config.attention_bias = fields.flag_or("attention_bias", false);
  config.head_norms = fields.flag_or("use_qk_norm", true);
  config.attention_chunk = fields.size_or("attention_chunk_size", 8192);
  if (switch_of(fields, "attn_temperature_tuning", true)) {
    config.temperature = {.weight = static_cast<float>(fields.positive_or("attn_scale", 0.1)),
                          .step = static_cast<float>(fields.size_or("floor_scale", 8192))};
  }
  parse_blocks(fields, config);
  parse_experts(fields, config);
}

ModelPlan plan_llama4(const ModelConfig& c, const TensorSource& /*source*/) {
  ModelPlan plan = plan_decoder(c, llama4_block);
  if (c.temperature) {
    // No angle at all: heads are only scaled.
    plan.ropes.push_back({std::vector<float>(at(c.head_dim / 2), 0.0F), 1.0F, *c.temperature});
  }
  return plan;
}

}  // namespace

std::span<const ModelRow> llama4_models() {
  static constexpr ModelRow row = {"llama4_text", "Llama4ForCausalLM", parse_llama4, plan_llama4};
  return {&row, 1};
}

}  // namespace quip
