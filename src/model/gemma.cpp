// Gemma 2 and 3: norms of gain 1 + w before and after attention and MLP, windows on some blocks.
// Gemma 2 caps its scores and logits; Gemma 3 norms every head's queries and keys, and turns those
// of blocks with a window by angles of their own.
#include <array>
#include <cmath>

#include "family_common.hpp"
#include "plan_builder.hpp"

namespace quip {
namespace {

BlockPlan gemma_block(const ModelConfig& c, index_t number) {
  BlockBuilder block(c, number);
  const Slot x = block.rms_norm("input_layernorm", block.residual());
  const auto heads = block.project("self_attn.", x, c.attention_bias);
  if (c.head_norms) {
    block.norm_by_head("self_attn.q_norm", heads.q, c.heads);
    block.norm_by_head("self_attn.k_norm", heads.k, c.kv_heads);
  }
  const Slot attention = block.attend_by_position(heads);
  block.add_normed("self_attn.o_proj", attention, c.attention_bias, "post_attention_layernorm");
  const Slot y = block.rms_norm("pre_feedforward_layernorm", block.residual());
  block.add_normed("mlp.down_proj", block.gated("mlp.", y, false), false,
                   "post_feedforward_layernorm");
  return block.finish();
}

/// Returns a cap that may be left out: null stands for none.
float cap_of(const ConfigFields& fields, const char* name, double fallback) {
  if (fields.is_null(name)) return 0.0F;
  if (fallback == 0 && !fields.has(name)) return 0.0F;
  return static_cast<float>(fields.positive_or(name, fallback));
}

/// Reads the fields of both. `period`: every so many blocks one sees everything.
void parse_gemma(const ConfigFields& fields, const DecoderDefaults& defaults, index_t period,
                 ModelConfig& config) {
  parse_decoder(fields, defaults, config);
  if (fields.flag_or("use_bidirectional_attention", false)) {
    fields.reject("use_bidirectional_attention", "is true; quip's attention is causal");
  }
  config.attention_bias = fields.flag_or("attention_bias", false);
  config.gain_plus = 1.0F;
  config.embedding_scale = std::sqrt(static_cast<double>(config.hidden));
  config.attention_scale = 1.0 / std::sqrt(fields.positive_or("query_pre_attn_scalar", 256.0));
  parse_windows(fields, config);
  if (!config.windowed.empty()) return;
  for (index_t b = 0; b < config.blocks; ++b) config.windowed.push_back((b + 1) % period != 0);
}

void parse_gemma2(const ConfigFields& fields, ModelConfig& config) {
  parse_gemma(fields,
              {.kv_heads = 4,
               .head_dim = 256,
               .tied_head = true,
               .activation_field = "hidden_activation",
               .activation = "gelu_pytorch_tanh"},
              2, config);
  config.score_cap = cap_of(fields, "attn_logit_softcapping", 50.0);
  config.logit_cap = cap_of(fields, "final_logit_softcapping", 30.0);
}

void parse_gemma3(const ConfigFields& fields, ModelConfig& config) {
  parse_gemma(fields,
              {.kv_heads = 4,
               .head_dim = 256,
               .tied_head = true,
               .activation_field = "hidden_activation",
               .activation = "gelu_pytorch_tanh",
               .rope_theta = 1e6,
               .local_rope = true,
               .sizes = {.heads = 8, .vocabulary = 262208, .positions = 131072}},
              fields.size_or("sliding_window_pattern", 6), config);
  config.head_norms = true;
  config.score_cap = cap_of(fields, "attn_logit_softcapping", 0.0);
  config.logit_cap = cap_of(fields, "final_logit_softcapping", 0.0);
}

ModelPlan plan_gemma(const ModelConfig& c, const TensorSource& /*source*/) {
  return plan_decoder(c, gemma_block);
}

}  // namespace

std::span<const ModelRow> gemma_models() {
  static constexpr std::array<ModelRow, 2> rows = {
      {{"gemma2", "Gemma2ForCausalLM", parse_gemma2, plan_gemma},
       {"gemma3_text", "Gemma3ForCausalLM", parse_gemma3, plan_gemma}}};
  return rows;
}

}  // namespace quip
