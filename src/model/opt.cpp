// OPT: learned positions, biases, and layer norms before (most sizes) or after (350m) each part.
#include <string>

#include "family_common.hpp"
#include "plan_builder.hpp"

namespace quip {
namespace {

// The embedding of position p is stored in row p + 2.
constexpr index_t position_offset = 2;

/// Makes the input of a sub-layer: the norm comes here if it comes before.
Slot enter(BlockBuilder& block, const char* norm) {
  const ModelConfig& c = block.config();
  return c.norm_before ? block.layer_norm(norm, block.residual(), c.norm_affine)
                       : block.copy(block.residual(), norm);
}

/// Ends a sub-layer, after its residual connection: the norm comes here if it comes after.
void leave(BlockBuilder& block, const char* norm) {
  const ModelConfig& c = block.config();
  if (!c.norm_before) block.layer_norm_in_place(norm, block.residual(), c.norm_affine);
}

BlockPlan block_of(const ModelConfig& c, const std::string& prefix, index_t number) {
  BlockBuilder block(c, number, prefix + "layers.");
  const Slot x = enter(block, "self_attn_layer_norm");
  const Slot attention = block.attend(block.project("self_attn.", x, c.bias));
  block.add_to_residual("self_attn.out_proj", attention, c.bias);
  leave(block, "self_attn_layer_norm");
  const Slot y = block.linear("fc1", enter(block, "final_layer_norm"), c.intermediate, c.bias);
  block.activate(y);
  block.add_to_residual("fc2", y, c.bias);
  leave(block, "final_layer_norm");
  return block.finish();
}

BlockPlan embed_of(const ModelConfig& c, const std::string& prefix) {
  PlanBuilder embed(c, prefix);
  const Slot rows = embed.input("embedding", c.embedding_dim);
  const Slot residual = c.embedding_dim == c.hidden
                            ? embed.copy(rows, "residual")
                            : embed.fixed_linear("project_in", rows, c.hidden);
  embed.add_rows("embed_positions.weight", {c.max_positions + position_offset, c.hidden},
                 position_offset, residual);
  return embed.finish(residual);
}

BlockPlan finish_of(const ModelConfig& c, const std::string& prefix) {
  PlanBuilder finish(c, prefix);
  const Slot residual = finish.input("residual", c.hidden);
  const Slot out = c.norm_before && c.final_norm
                       ? finish.layer_norm("final_layer_norm", residual, c.norm_affine)
                       : finish.copy(residual, "normed");
  if (c.embedding_dim == c.hidden) return finish.finish(out);
  return finish.finish(finish.fixed_linear("project_out", out, c.embedding_dim));
}

ModelPlan plan_opt(const ModelConfig& c, const TensorSource& source) {
  const bool bare = source.contains("decoder.embed_tokens.weight");
  const std::string prefix = bare ? "decoder." : "model.decoder.";
  ModelPlan plan;
  plan.embedding = {prefix + "embed_tokens.weight", {c.vocabulary, c.embedding_dim}};
  plan.head = head_of(c, plan.embedding);
  plan.embed = embed_of(c, prefix);
  for (index_t b = 0; b < c.blocks; ++b) plan.blocks.push_back(block_of(c, prefix, b));
  plan.finish = finish_of(c, prefix);
  return plan;
}

void parse_opt(const ConfigFields& fields, ModelConfig& config) {
  parse_sizes(fields, "ffn_dim", {}, config);
  require_equal_heads(fields, config);
  config.kv_heads = config.heads;
  config.head_dim = config.hidden / config.heads;
  config.norm_epsilon = 1e-5F;  // torch's default: OPT has no field for it
  config.tied_head = fields.flag_or("tie_word_embeddings", true);
  parse_activation(fields, "activation_function", "relu", config);
  config.embedding_dim = fields.size_or("word_embed_proj_dim", config.hidden);
  config.norm_before = fields.flag_or("do_layer_norm_before", true);
  config.final_norm = !fields.flag_or("_remove_final_layer_norm", false);
  config.norm_affine = fields.flag_or("layer_norm_elementwise_affine", true);
  config.bias = fields.flag_or("enable_bias", true);
}

constexpr ModelRow model_text = {"opt", "OPTForCausalLM", parse_opt, plan_opt};

}  // namespace

std::span<const ModelRow> opt_models() { return {&model_text, 1}; }

}  // namespace quip
