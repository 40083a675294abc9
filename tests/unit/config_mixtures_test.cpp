// The configurations of mixtures of experts.
#include <cmath>
#include <vector>

#include "unit/config_support.hpp"
#include <gtest/gtest.h>

namespace quip::config_test {
namespace {

TEST(ConfigOfMixtures, ExpertsOfMixtralAndQwen3) {
  const json groups = {{"num_key_value_heads", 2}};
  const ModelConfig mixtral = parse(with(llama_like("mixtral"), groups));
  EXPECT_EQ(mixtral.router.experts, 8);
  EXPECT_EQ(mixtral.router.chosen, 2);
  EXPECT_TRUE(mixtral.router.renormalised);
  EXPECT_EQ(mixtral.expert_intermediate, 96);
  EXPECT_EQ(mixtral.rope.theta, 1e6);
  EXPECT_EQ(mixtral.sliding_window, std::nullopt);

  const ModelConfig qwen = parse(llama_like("qwen3_moe"));
  EXPECT_EQ(qwen.router.experts, 128);
  EXPECT_EQ(qwen.router.chosen, 8);
  EXPECT_FALSE(qwen.router.renormalised);
  EXPECT_EQ(qwen.expert_intermediate, 768);
  EXPECT_EQ(qwen.head_dim, 16);
  EXPECT_EQ(qwen.dense, (std::vector{false, false, false}));
  const ModelConfig some = parse(with(llama_like("qwen3_moe"), {{"num_local_experts", 4},
                                                                {"num_experts_per_tok", 4},
                                                                {"norm_topk_prob", true},
                                                                {"decoder_sparse_step", 2},
                                                                {"mlp_only_layers", {1, 7}}}));
  EXPECT_EQ(some.router.experts, 4);
  EXPECT_TRUE(some.router.renormalised);
  EXPECT_EQ(some.dense, (std::vector{true, true, true}));
}

TEST(ConfigOfMixtures, DeepSeekV3DefaultsAreThoseOfTransformers) {
  const ModelConfig c = parse(llama_like("deepseek_v3"));
  EXPECT_EQ(c.head_dim, 64);
  EXPECT_EQ(c.kv_heads, 4);
  EXPECT_EQ(c.norm_epsilon, 1e-6F);
  EXPECT_TRUE(c.rope.interleaved);
  EXPECT_EQ(c.latent.query_rank, 1536);
  EXPECT_EQ(c.latent.rank, 512);
  EXPECT_EQ(c.latent.plain, 128);
  EXPECT_EQ(c.latent.value, 128);
  EXPECT_EQ(c.attention_scale, 1.0 / std::sqrt(192.0));
  EXPECT_EQ(c.router.experts, 256);
  EXPECT_EQ(c.router.chosen, 8);
  EXPECT_EQ(c.router.groups, 8);
  EXPECT_EQ(c.router.chosen_groups, 4);
  EXPECT_EQ(c.router.scores, RouterScores::sigmoid);
  EXPECT_EQ(c.router.factor, 2.5F);
  EXPECT_TRUE(c.router.renormalised);
  EXPECT_EQ(c.expert_intermediate, 2048);
  EXPECT_EQ(c.shared_intermediate, 2048);
  EXPECT_FALSE(c.has_experts(2));
  EXPECT_TRUE(c.has_experts(3));
  EXPECT_FALSE(c.attention_bias || c.tied_head);

  const json yarn = {{"rope_type", "yarn"},
                     {"factor", 40},
                     {"mscale", 1.0},
                     {"mscale_all_dim", 2.0},
                     {"original_max_position_embeddings", 16}};
  const ModelConfig other = parse(with(llama_like("deepseek_v3"), {{"q_lora_rank", nullptr},
                                                                   {"n_shared_experts", 3},
                                                                   {"first_k_dense_replace", 0},
                                                                   {"qk_rope_head_dim", 32},
                                                                   {"rope_interleave", false},
                                                                   {"rope_scaling", yarn}}));
  EXPECT_EQ(other.latent.query_rank, 0);
  EXPECT_EQ(other.head_dim, 32);
  EXPECT_EQ(other.shared_intermediate, 3 * 2048);
  EXPECT_TRUE(other.has_experts(0));
  EXPECT_FALSE(other.rope.interleaved);
  const double magnitude = 0.2 * std::log(40.0) + 1;
  EXPECT_NEAR(*other.attention_scale, magnitude * magnitude / std::sqrt(160.0), 1e-15);
}

TEST(ConfigOfMixtures, DefaultsOfGlm4MoeMinimaxM2AndErnieAreThoseOfTransformers) {
  const ModelConfig glm = parse(with(llama_like("glm4_moe"), {{"num_key_value_heads", 2}}));
  EXPECT_EQ(glm.rope.partial, 0.5);
  EXPECT_EQ(glm.norm_epsilon, 1e-5F);
  EXPECT_EQ(glm.head_dim, 16);
  EXPECT_EQ(glm.router.experts, 128);
  EXPECT_EQ(glm.router.groups, 1);
  EXPECT_EQ(glm.router.factor, 1.0F);
  EXPECT_EQ(glm.expert_intermediate, 1408);
  EXPECT_FALSE(glm.has_experts(0) || glm.head_norms || glm.attention_bias);
  EXPECT_TRUE(glm.has_experts(1));

  const json groups = {{"num_key_value_heads", 2}};
  const ModelConfig minimax = parse(with(llama_like("minimax_m2"), groups));
  EXPECT_EQ(minimax.head_dim, 128);
  EXPECT_EQ(minimax.rope.theta, 5e6);
  EXPECT_EQ(minimax.rope.partial, 1.0);
  EXPECT_EQ(minimax.router.experts, 256);
  EXPECT_EQ(minimax.router.scores, RouterScores::sigmoid);
  EXPECT_EQ(minimax.expert_intermediate, 96);
  EXPECT_EQ(minimax.shared_intermediate, 0);
  const json part = {{"num_key_value_heads", 2}, {"rotary_dim", 64}};
  EXPECT_EQ(parse(with(llama_like("minimax_m2"), part)).rope.partial, 0.5);

  const ModelConfig ernie = parse(llama_like("ernie4_5_moe"));
  EXPECT_EQ(ernie.kv_heads, 4);
  EXPECT_EQ(ernie.rope.theta, 5e5);
  EXPECT_TRUE(ernie.rope.interleaved && ernie.tied_head);
  EXPECT_EQ(ernie.router.experts, 64);
  EXPECT_EQ(ernie.router.chosen, 6);
  EXPECT_EQ(ernie.router.scores, RouterScores::softmax);
  EXPECT_EQ(ernie.router.least_sum, 1e-12F);
  EXPECT_EQ(ernie.shared_intermediate, 2 * 1536);
  EXPECT_EQ(ernie.dense, (std::vector{true, false, false}));
  const json some = {{"moe_layer_end_index", 1}, {"moe_layer_interval", 2}};
  EXPECT_EQ(parse(with(llama_like("ernie4_5_moe"), some)).dense, (std::vector{true, false, true}));
}

TEST(ConfigOfMixtures, DefaultsOfGptOssAndLlama4AreThoseOfTransformers) {
  const json groups = {{"num_key_value_heads", 2}};
  const ModelConfig oss = parse(with(llama_like("gpt_oss"), groups));
  EXPECT_EQ(oss.head_dim, 64);
  EXPECT_EQ(oss.norm_epsilon, 1e-5F);
  EXPECT_EQ(oss.rope.theta, 150000.0);
  EXPECT_EQ(oss.rope.scaling.kind, RopeScaling::Kind::yarn);
  EXPECT_EQ(oss.rope.scaling.factor, 32.0);
  EXPECT_EQ(oss.rope.scaling.original_max_position, 4096.0);
  EXPECT_FALSE(oss.rope.scaling.truncate);
  EXPECT_NEAR(oss.rope.scaling.attention_factor, 0.1 * std::log(32.0) + 1, 1e-15);
  EXPECT_EQ(oss.router.experts, 128);
  EXPECT_EQ(oss.router.chosen, 4);
  EXPECT_TRUE(oss.router.renormalised && oss.attention_bias);
  EXPECT_EQ(oss.swiglu.alpha, 1.702F);
  EXPECT_EQ(oss.swiglu.limit, 7.0F);
  EXPECT_EQ(oss.window(0), 128);
  EXPECT_EQ(oss.window(1), std::nullopt);
  EXPECT_EQ(oss.window(2), 128);
  const json none = {{"num_key_value_heads", 2}, {"sliding_window", nullptr}};
  EXPECT_EQ(parse(with(llama_like("gpt_oss"), none)).window(0), std::nullopt);

  const ModelConfig llama = parse(with(llama_like("llama4_text"), groups));
  EXPECT_EQ(llama.head_dim, 128);
  EXPECT_EQ(llama.norm_epsilon, 1e-5F);
  EXPECT_EQ(llama.rope.theta, 5e5);
  EXPECT_TRUE(llama.rope.interleaved && llama.head_norms);
  EXPECT_EQ(llama.router.experts, 16);
  EXPECT_EQ(llama.router.chosen, 1);
  EXPECT_EQ(llama.intermediate, 16384);
  EXPECT_EQ(llama.expert_intermediate, 96);
  EXPECT_EQ(llama.chunk(0), 8192);
  EXPECT_EQ(llama.temperature->step, 8192.0F);
  EXPECT_EQ(llama.temperature->weight, 0.1F);
  EXPECT_EQ(llama.turning, (std::vector{true, true, true}));
  EXPECT_EQ(llama.dense, (std::vector{false, false, false}));
  const json other = {{"num_key_value_heads", 2},        {"no_rope_layer_interval", 3},
                      {"no_rope_layers", json::array()}, {"interleave_moe_layer_step", 2},
                      {"attn_temperature_tuning", 0},    {"use_qk_norm", false}};
  const ModelConfig some = parse(with(llama_like("llama4_text"), other));
  EXPECT_EQ(some.turning, (std::vector{true, true, false}));
  EXPECT_EQ(some.chunk(2), std::nullopt);
  EXPECT_EQ(some.dense, (std::vector{true, false, true}));
  EXPECT_FALSE(some.temperature || some.head_norms);
  const json types = {{"num_key_value_heads", 2},
                      {"no_rope_layers", {1, 0, 1}},
                      {"moe_layers", {2}},
                      {"layer_types", {"full_attention", "full_attention", "chunked_attention"}}};
  const ModelConfig listed = parse(with(llama_like("llama4_text"), types));
  EXPECT_EQ(listed.turning, (std::vector{true, false, true}));
  EXPECT_EQ(listed.chunked, (std::vector{false, false, true}));
  EXPECT_EQ(listed.dense, (std::vector{true, true, false}));
}

}  // namespace
}  // namespace quip::config_test
