#include "quip/model/config.hpp"

#include <cmath>
#include <string>
#include <vector>

#include "unit/config_support.hpp"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quip::config_test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(Config, LlamaDefaultsAreThoseOfTransformers) {
  const ModelConfig c = parse(llama_like("llama"));
  EXPECT_EQ(c.model_type, "llama");
  EXPECT_EQ(c.architecture, "LlamaForCausalLM");
  EXPECT_EQ(c.hidden, 64);
  EXPECT_EQ(c.intermediate, 96);
  EXPECT_EQ(c.blocks, 3);
  EXPECT_EQ(c.heads, 4);
  EXPECT_EQ(c.kv_heads, 4);
  EXPECT_EQ(c.head_dim, 16);
  EXPECT_EQ(c.embedding_dim, 64);
  EXPECT_EQ(c.vocabulary, 100);
  EXPECT_EQ(c.max_positions, 32);
  EXPECT_FALSE(c.tied_head);
  EXPECT_EQ(c.activation, Activation::silu);
  EXPECT_EQ(c.norm_epsilon, 1e-6F);
  EXPECT_EQ(c.rope.theta, 10000.0);
  EXPECT_EQ(c.rope.scaling.kind, RopeScaling::Kind::none);
  EXPECT_FALSE(c.attention_bias || c.attention_output_bias || c.mlp_bias);
  EXPECT_FALSE(c.sliding_window.has_value());
}

TEST(Config, LlamaOptions) {
  const ModelConfig c = parse(with(llama_like("llama"), {{"num_key_value_heads", 2},
                                                         {"head_dim", 32},
                                                         {"tie_word_embeddings", true},
                                                         {"attention_bias", true},
                                                         {"mlp_bias", true},
                                                         {"rms_norm_eps", 1e-5},
                                                         {"rope_theta", 500000},
                                                         {"hidden_act", "gelu_pytorch_tanh"}}));
  EXPECT_EQ(c.kv_heads, 2);
  EXPECT_EQ(c.head_dim, 32);
  EXPECT_TRUE(c.tied_head && c.attention_bias && c.attention_output_bias && c.mlp_bias);
  EXPECT_EQ(c.norm_epsilon, 1e-5F);
  EXPECT_EQ(c.rope.theta, 500000.0);
  EXPECT_EQ(c.activation, Activation::gelu_tanh);
}

TEST(Config, NullMeansDerivedAndAbsentMeansTheClassDefault) {
  const json null = {{"num_key_value_heads", nullptr}, {"head_dim", nullptr}};
  EXPECT_EQ(parse(with(llama_like("mistral"), null)).kv_heads, 4);
  EXPECT_EQ(parse(with(llama_like("llama"), null)).head_dim, 16);
  // MistralConfig has 8 key/value heads unless told otherwise, Qwen2Config 32.
  EXPECT_EQ(parse(with(llama_like("mistral"), {{"num_attention_heads", 16}})).kv_heads, 8);
  const json wide = {{"num_attention_heads", 64}, {"hidden_size", 128}};
  EXPECT_EQ(parse(with(llama_like("qwen2"), wide)).kv_heads, 32);
}

TEST(Config, MistralWindow) {
  const json base = with(llama_like("mistral"), {{"num_key_value_heads", 2}});
  EXPECT_EQ(parse(base).sliding_window, 4096);
  EXPECT_EQ(parse(base).window(0), 4096);
  EXPECT_EQ(parse(with(base, {{"sliding_window", 7}})).sliding_window, 7);
  EXPECT_FALSE(parse(with(base, {{"sliding_window", nullptr}})).sliding_window.has_value());
  EXPECT_FALSE(parse(with(base, {{"attention_bias", true}})).attention_bias);  // Mistral has none
}

TEST(Config, MistralBlocksOfTheTypesListed) {
  const json types = {"sliding_attention", "full_attention", "sliding_attention"};
  const json listed = {{"num_key_value_heads", 2}, {"sliding_window", 7}, {"layer_types", types}};
  const ModelConfig c = parse(with(llama_like("mistral"), listed));
  EXPECT_EQ(c.window(0), 7);
  EXPECT_FALSE(c.window(1).has_value());
  EXPECT_EQ(c.window(2), 7);
}

TEST(Config, Qwen2BiasesAndWindow) {
  const json base = with(llama_like("qwen2"), {{"num_key_value_heads", 2}, {"sliding_window", 9}});
  const ModelConfig plain = parse(base);
  EXPECT_TRUE(plain.attention_bias);
  EXPECT_FALSE(plain.attention_output_bias);
  EXPECT_FALSE(plain.mlp_bias);
  EXPECT_FALSE(plain.sliding_window.has_value());

  const json used = with(base, {{"use_sliding_window", true}});
  EXPECT_FALSE(parse(used).window(2).has_value());  // from block 28 on
  const ModelConfig windowed = parse(with(used, {{"max_window_layers", 1}}));
  EXPECT_EQ(windowed.sliding_window, 9);
  EXPECT_FALSE(windowed.window(0).has_value());
  EXPECT_EQ(windowed.window(1), 9);
  EXPECT_EQ(windowed.window(2), 9);
  const json types = {"full_attention", "full_attention", "sliding_attention"};
  const ModelConfig listed = parse(with(used, {{"layer_types", types}}));
  EXPECT_FALSE(listed.window(1).has_value());
  EXPECT_EQ(listed.window(2), 9);
}

TEST(Config, OptDefaultsAndOptions) {
  const ModelConfig c = parse(opt());
  EXPECT_EQ(c.architecture, "OPTForCausalLM");
  EXPECT_EQ(c.intermediate, 96);
  EXPECT_EQ(c.kv_heads, 4);
  EXPECT_EQ(c.head_dim, 12);
  EXPECT_EQ(c.embedding_dim, 48);
  EXPECT_EQ(c.activation, Activation::relu);
  EXPECT_EQ(c.norm_epsilon, 1e-5F);
  EXPECT_TRUE(c.tied_head && c.norm_before && c.final_norm && c.norm_affine && c.bias);

  const ModelConfig d = parse(with(opt(), {{"word_embed_proj_dim", 24},
                                           {"do_layer_norm_before", false},
                                           {"_remove_final_layer_norm", true},
                                           {"layer_norm_elementwise_affine", false},
                                           {"enable_bias", false},
                                           {"tie_word_embeddings", false},
                                           {"activation_function", "gelu"}}));
  EXPECT_EQ(d.embedding_dim, 24);
  EXPECT_EQ(d.activation, Activation::gelu);
  EXPECT_FALSE(d.tied_head || d.norm_before || d.final_norm || d.norm_affine || d.bias);
}

TEST(Config, KeepsTheTextAsRead) {
  const std::string text = llama_like("llama").dump(2);
  EXPECT_EQ(parse_config(text, "x").text, text);
}

TEST(Config, RopeInTheOldAndTheNewSpelling) {
  const json llama3 = {{"rope_type", "llama3"},
                       {"factor", 8.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 512}};
  const json old = {{"rope_theta", 500000.0}, {"rope_scaling", llama3}};
  const json recent = {{"rope_parameters", with(llama3, {{"rope_theta", 500000.0}})}};
  for (const json& spelling : {old, recent}) {
    const ModelConfig c = parse(with(llama_like("llama"), spelling));
    EXPECT_EQ(c.rope.theta, 500000.0);
    EXPECT_EQ(c.rope.scaling.kind, RopeScaling::Kind::llama3);
    EXPECT_EQ(c.rope.scaling.factor, 8.0);
    EXPECT_EQ(c.rope.scaling.low_freq_factor, 1.0);
    EXPECT_EQ(c.rope.scaling.high_freq_factor, 4.0);
    EXPECT_EQ(c.rope.scaling.original_max_position, 512.0);
  }
  const json linear = {{"rope_scaling", {{"type", "linear"}, {"factor", 4}}}};
  EXPECT_EQ(parse(with(llama_like("llama"), linear)).rope.scaling.kind, RopeScaling::Kind::linear);
  const json plain = {{"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 7.0}}}};
  EXPECT_EQ(parse(with(llama_like("qwen2"), with(plain, {{"num_key_value_heads", 1}}))).rope.theta,
            7.0);
}

TEST(Config, YarnInThreeSpellings) {
  const json yarn = {{"factor", 4.0}, {"original_max_position_embeddings", 16}};
  const std::vector<json> spellings = {
      {{"rope_parameters", with(yarn, {{"rope_type", "yarn"}, {"rope_theta", 50.0}})}},
      {{"rope_theta", 50.0}, {"rope_scaling", with(yarn, {{"rope_type", "yarn"}})}},
      {{"rope_theta", 50.0}, {"rope_scaling", with(yarn, {{"type", "yarn"}})}}};
  for (const json& spelling : spellings) {
    const ModelConfig c = parse(with(llama_like("llama"), spelling));
    EXPECT_EQ(c.rope.theta, 50.0);
    EXPECT_EQ(c.rope.scaling.kind, RopeScaling::Kind::yarn);
    EXPECT_EQ(c.rope.scaling.factor, 4.0);
    EXPECT_EQ(c.rope.scaling.original_max_position, 16.0);
    EXPECT_EQ(c.rope.scaling.beta_fast, 32.0);
    EXPECT_EQ(c.rope.scaling.beta_slow, 1.0);
    EXPECT_TRUE(c.rope.scaling.truncate);
    EXPECT_NEAR(c.rope.scaling.attention_factor, 0.1 * std::log(4.0) + 1, 1e-15);
  }
  const auto magnitude = [&](const json& changes) {
    const json rope = with(with(yarn, {{"type", "yarn"}}), changes);
    return parse(with(llama_like("llama"), {{"rope_scaling", rope}})).rope.scaling.attention_factor;
  };
  EXPECT_EQ(magnitude({{"attention_factor", 1.5}}), 1.5);
  EXPECT_NEAR(magnitude({{"mscale", 2.0}, {"mscale_all_dim", 0.5}}),
              (0.2 * std::log(4.0) + 1) / (0.05 * std::log(4.0) + 1), 1e-15);
  EXPECT_EQ(magnitude({{"mscale", 1.0}, {"mscale_all_dim", 1.0}}), 1.0);
  // A context beside the rope counts before the one in it, and max_position_embeddings last.
  const json outer = {{"original_max_position_embeddings", 8},
                      {"rope_scaling", with(yarn, {{"type", "yarn"}})}};
  EXPECT_EQ(parse(with(llama_like("llama"), outer)).rope.scaling.original_max_position, 8.0);
  const json bare = {{"rope_scaling", {{"type", "yarn"}, {"factor", 2}}}};
  EXPECT_EQ(parse(with(llama_like("llama"), bare)).rope.scaling.original_max_position, 32.0);
}

TEST(Config, Qwen3DefaultsAreThoseOfTransformers) {
  const ModelConfig c = parse(with(llama_like("qwen3"), {{"num_key_value_heads", 2}}));
  EXPECT_EQ(c.head_dim, 128);
  EXPECT_EQ(c.norm_epsilon, 1e-6F);
  EXPECT_FALSE(c.attention_bias || c.tied_head || c.sliding_window);
  const json late = {
      {"num_key_value_heads", 2}, {"use_sliding_window", true}, {"max_window_layers", 1}};
  const ModelConfig w = parse(with(llama_like("qwen3"), late));
  EXPECT_EQ(w.window(0), std::nullopt);
  EXPECT_EQ(w.window(1), 4096);
}

TEST(Config, Gemma2DefaultsAreThoseOfTransformers) {
  const ModelConfig c = parse(llama_like("gemma2"));
  EXPECT_EQ(c.head_dim, 256);
  EXPECT_EQ(c.kv_heads, 4);
  EXPECT_EQ(c.activation, Activation::gelu_tanh);
  EXPECT_EQ(c.gain_plus, 1.0F);
  EXPECT_EQ(c.embedding_scale, 8.0);  // √64
  EXPECT_EQ(c.attention_scale, 1.0 / 16);
  EXPECT_EQ(c.score_cap, 50.0F);
  EXPECT_EQ(c.logit_cap, 30.0F);
  EXPECT_EQ(c.sliding_window, 4096);
  EXPECT_EQ(c.windowed, (std::vector{true, false, true}));
  EXPECT_TRUE(c.tied_head);
  EXPECT_FALSE(c.head_norms || c.local_rope);
  const ModelConfig none =
      parse(with(llama_like("gemma2"),
                 {{"attn_logit_softcapping", nullptr}, {"final_logit_softcapping", nullptr}}));
  EXPECT_EQ(none.score_cap, 0.0F);
  EXPECT_EQ(none.logit_cap, 0.0F);
}

TEST(Config, Gemma3InTheOldAndTheNewSpelling) {
  const json many = with(llama_like("gemma3_text"), {{"num_hidden_layers", 7}});
  const ModelConfig c = parse(many);
  EXPECT_TRUE(c.head_norms);
  EXPECT_EQ(c.score_cap, 0.0F);
  EXPECT_EQ(c.logit_cap, 0.0F);
  EXPECT_EQ(c.rope.theta, 1e6);
  EXPECT_EQ(c.local_rope->theta, 10000.0);
  EXPECT_EQ(c.windowed, (std::vector{true, true, true, true, true, false, true}));

  const json old = {{"rope_theta", 5e5},
                    {"rope_local_base_freq", 2e4},
                    {"rope_scaling", {{"rope_type", "linear"}, {"factor", 8}}},
                    {"sliding_window_pattern", 2}};
  const json recent = {
      {"rope_parameters",
       {{"full_attention", {{"rope_type", "linear"}, {"factor", 8}, {"rope_theta", 5e5}}},
        {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 2e4}}}}},
      {"sliding_window_pattern", 2}};
  for (const json& spelling : {old, recent}) {
    const ModelConfig m = parse(with(many, spelling));
    EXPECT_EQ(m.rope.theta, 5e5);
    EXPECT_EQ(m.rope.scaling.kind, RopeScaling::Kind::linear);
    EXPECT_EQ(m.rope.scaling.factor, 8.0);
    EXPECT_EQ(m.local_rope->theta, 2e4);
    EXPECT_EQ(m.local_rope->scaling.kind, RopeScaling::Kind::none);
    EXPECT_EQ(m.windowed, (std::vector{true, false, true, false, true, false, true}));
  }
}

// As the texts of Gemma 3's wrappers are published.
TEST(Config, Gemma3MayLeaveOutMostSizes) {
  const json text = {{"model_type", "gemma3_text"},
                     {"hidden_size", 2560},
                     {"intermediate_size", 10240},
                     {"num_hidden_layers", 34},
                     {"rope_scaling", {{"factor", 8.0}, {"rope_type", "linear"}}},
                     {"sliding_window", 1024}};
  const ModelConfig c = parse({{"model_type", "gemma3"}, {"text_config", text}});
  EXPECT_EQ(c.heads, 8);
  EXPECT_EQ(c.kv_heads, 4);
  EXPECT_EQ(c.head_dim, 256);
  EXPECT_EQ(c.vocabulary, 262208);
  EXPECT_EQ(c.max_positions, 131072);
  EXPECT_EQ(c.rope.scaling.factor, 8.0);
  EXPECT_EQ(c.sliding_window, 1024);
}

TEST(Config, DefaultsOfPhi3Olmo2AndGraniteAreThoseOfTransformers) {
  const ModelConfig phi = parse(llama_like("phi3"));
  EXPECT_EQ(phi.kv_heads, 4);
  EXPECT_EQ(phi.norm_epsilon, 1e-5F);
  EXPECT_EQ(phi.rope.partial, 1.0);
  EXPECT_FALSE(phi.sliding_window || phi.tied_head);
  const json part = {{"rope_parameters", {{"partial_rotary_factor", 0.75}}}};
  EXPECT_EQ(parse(with(llama_like("phi3"), part)).rope.partial, 0.75);
  EXPECT_EQ(parse(with(llama_like("phi3"), {{"sliding_window", 7}})).window(2), 7);

  const ModelConfig olmo = parse(llama_like("olmo2"));
  EXPECT_EQ(olmo.norm_epsilon, 1e-5F);
  EXPECT_FALSE(olmo.attention_bias || olmo.tied_head);

  const ModelConfig plain = parse(llama_like("granite"));
  EXPECT_EQ(plain.embedding_scale, 1.0);
  EXPECT_EQ(plain.attention_scale, 1.0);
  EXPECT_EQ(plain.residual_scale, 1.0);
  EXPECT_EQ(plain.head_scale, 1.0);
  const ModelConfig scaled = parse(with(llama_like("granite"), {{"embedding_multiplier", 6},
                                                                {"attention_multiplier", 0.2},
                                                                {"residual_multiplier", 0.4},
                                                                {"logits_scaling", 4},
                                                                {"mlp_bias", true}}));
  EXPECT_EQ(scaled.embedding_scale, 6.0);
  EXPECT_EQ(scaled.attention_scale, 0.2);
  EXPECT_EQ(scaled.residual_scale, 0.4);
  EXPECT_EQ(scaled.head_scale, 0.25);
  EXPECT_TRUE(scaled.mlp_bias);
}

TEST(Config, FormatsOfQuantizedCheckpoints) {
  const auto format = [](const json& stored) {
    return parse(with(llama_like("llama"), {{"quantization_config", stored}})).format;
  };
  const WeightFormat fp8 = format({{"quant_method", "fp8"}, {"weight_block_size", {64, 128}}});
  EXPECT_EQ(fp8.kind, WeightFormat::Kind::fp8);
  EXPECT_EQ(fp8.block_rows, 64);
  EXPECT_EQ(fp8.block_cols, 128);
  const json long_name = {
      {"quant_method", "fp8"}, {"fmt", "float8_e4m3fn"}, {"weight_block_size", {64, 128}}};
  EXPECT_EQ(format(long_name).kind, WeightFormat::Kind::fp8);
  EXPECT_EQ(format({{"quant_method", "mxfp4"}}).kind, WeightFormat::Kind::mxfp4);
  EXPECT_EQ(parse(llama_like("llama")).format.kind, WeightFormat::Kind::plain);
}

TEST(Config, TheTextOfAWrapperIsTaken) {
  json document = {{"model_type", "seeing"},
                   {"architectures", {"SeeingForConditionalGeneration"}},
                   {"tie_word_embeddings", true},
                   {"text_config", llama_like("llama")}};
  const ModelConfig c = parse(document);
  EXPECT_TRUE(c.wrapped && c.tied_head);
  EXPECT_EQ(c.model_type, "llama");
  EXPECT_EQ(c.hidden, 64);
  EXPECT_EQ(c.text, document.dump());
  document["text_config"]["tie_word_embeddings"] = false;
  EXPECT_FALSE(parse(document).tied_head);
  EXPECT_FALSE(parse(llama_like("llama")).wrapped);
}

/// As transformers 5 decides it; 4.46 knows the old spelling only.
TEST(Config, AnOldRopeThatIsNotEmptyCountsAlone) {
  const json recent = {{"rope_type", "default"}, {"rope_theta", 500.0}};
  const auto both = [&](const json& old) {
    return parse(with(llama_like("llama"), {{"rope_scaling", old}, {"rope_parameters", recent}}));
  };
  const ModelConfig linear = both({{"rope_type", "linear"}, {"factor", 4.0}});
  EXPECT_EQ(linear.rope.scaling.kind, RopeScaling::Kind::linear);
  EXPECT_EQ(linear.rope.theta, 10000.0);
  EXPECT_EQ(both({{"rope_type", "default"}, {"rope_theta", 7.0}}).rope.theta, 7.0);
  EXPECT_EQ(both(json::object()).rope.theta, 500.0);
  EXPECT_EQ(both(nullptr).rope.theta, 500.0);
}

TEST(Config, EveryFaultNamesTheFieldAndTheFile) {
  struct Case {
    json document;
    std::string culprit;
  };
  const json llama = llama_like("llama");
  const auto rope = [&](const json& scaling) { return with(llama, {{"rope_scaling", scaling}}); };
  const std::vector<Case> cases = {
      {with(llama, {{"model_type", "gpt2"}}), "model_type is \"gpt2\"; quip knows llama, mistral"},
      {with(llama, {{"model_type", nullptr}}), "model_type is missing"},
      {with(llama, {{"model_type", 3}}), "model_type is 3, not a string"},
      {with(llama, {{"architectures", {"LlamaForSequenceClassification"}}}), "OPTForCausalLM"},
      {with(llama, {{"architectures", json::array()}}), "architectures is []"},
      {with(llama, {{"quantization_config", {{"bits", 4}}}}), "quantized already"},
      {with(llama, {{"quantization_config", {{"quant_method", "gptq"}}}}), "quantized already"},
      {with(llama, {{"quantization_config", {{"quant_method", "fp8"}}}}),
       "quip reads quant_method fp8 with a weight_block_size"},
      {with(llama,
            {{"quantization_config", {{"quant_method", "fp8"}, {"weight_block_size", {128, 0}}}}}),
       "quantization_config.weight_block_size is [128,0], not rows and columns"},
      {with(llama, {{"quantization_config",
                     {{"quant_method", "fp8"}, {"fmt", "e5m2"}, {"weight_block_size", {1, 1}}}}}),
       "quantization_config.fmt is \"e5m2\"; quip knows \"e4m3\""},
      {{{"model_type", "seeing"}, {"text_config", {{"model_type", "seeing_text"}}}},
       "text_config.model_type is \"seeing_text\"; quip knows llama"},
      {{{"model_type", "seeing"}, {"text_config", 5}}, "text_config is 5, not an object"},
      {llama_like("nemotron_h"), "it does not compute state-space blocks"},
      {llama_like("deepseek_v32"), "it does not compute sparse attention"},
      {with(llama, {{"hidden_size", nullptr}}), "hidden_size is missing"},
      {with(llama, {{"hidden_size", 0}}), "hidden_size is 0, not an integer"},
      {with(llama, {{"hidden_size", 66}}), "hidden_size is 66, not a multiple"},
      {with(llama, {{"intermediate_size", -5}}), "intermediate_size is -5"},
      {with(llama, {{"num_hidden_layers", 2.5}}), "num_hidden_layers is 2.5"},
      {with(llama, {{"vocab_size", "many"}}), "vocab_size is \"many\""},
      {with(llama, {{"vocab_size", 18446744073709551615U}}), "vocab_size is 18446744073709551615"},
      {with(llama, {{"vocab_size", 2147483648}}), "vocab_size is 2147483648"},
      {with(llama, {{"max_position_embeddings", true}}), "max_position_embeddings is true"},
      {with(llama, {{"num_key_value_heads", 3}}),
       "num_key_value_heads is 3, which does not divide"},
      {with(llama, {{"head_dim", 15}}), "head_dim gives heads of 15 channels"},
      {with(llama, {{"num_attention_heads", 64}}), "hidden_size gives heads of 1 channels"},
      {with(llama, {{"rms_norm_eps", 0}}), "rms_norm_eps is 0"},
      {with(llama, {{"rms_norm_eps", 1e300}}), "rms_norm_eps is 1e+300"},  // infinite in fp32
      {with(llama, {{"rms_norm_eps", 1e-60}}), "rms_norm_eps is 1e-60"},   // zero in fp32
      {with(llama, {{"rope_theta", "1e4"}}), "rope_theta is \"1e4\""},
      {with(llama, {{"tie_word_embeddings", 1}}), "tie_word_embeddings is 1, not true or false"},
      {with(llama, {{"hidden_act", "relu6"}}), "hidden_act is \"relu6\"; quip knows relu"},
      {with(llama, {{"partial_rotary_factor", 0.5}}), "partial_rotary_factor is not 1"},
      {with(llama, {{"rope_scaling", "linear"}}), "rope_scaling is \"linear\", not an object"},
      {rope({{"rope_type", "longrope"}}), "rope_scaling.rope_type is \"longrope\"; quip knows"},
      {rope({{"rope_type", "yarn"}, {"factor", -1}}), "rope_scaling.factor is -1"},
      {rope({{"rope_type", "yarn"}, {"truncate", 0}}), "rope_scaling.truncate is 0, not true"},
      {with(llama_like("phi3"), {{"partial_rotary_factor", 0.2}}),
       "partial_rotary_factor is 0.2, which turns 3 channels"},
      {with(llama_like("phi3"), {{"partial_rotary_factor", 2}}), "partial_rotary_factor is 2,"},
      {with(llama_like("gemma2"), {{"use_bidirectional_attention", true}}),
       "use_bidirectional_attention is true"},
      {with(llama_like("gemma2"), {{"attn_logit_softcapping", -1}}),
       "attn_logit_softcapping is -1"},
      {with(llama_like("gemma3_text"), {{"rope_parameters", {{"rope_theta", 5.0}}}}),
       "rope_parameters.rope_theta is there; expected full_attention"},
      {with(llama_like("granite"), {{"residual_multiplier", "half"}}), "residual_multiplier is"},
      {with(llama_like("qwen3_moe"), {{"num_experts", 4}, {"num_experts_per_tok", 5}}),
       "num_experts_per_tok is 5, and there are 4 experts"},
      {with(llama_like("qwen3_moe"), {{"mlp_only_layers", {-1}}}), "mlp_only_layers has -1"},
      {with(llama_like("deepseek_v3"), {{"n_routed_experts", 4}}),
       "num_experts_per_tok is 8, and there are 4 experts"},
      {with(llama_like("deepseek_v3"), {{"n_group", 7}}), "n_group is 7: 256 experts make no"},
      {with(llama_like("deepseek_v3"), {{"topk_group", 9}}), "topk_group is 9 of 8 groups"},
      {with(llama_like("deepseek_v3"), {{"topk_method", "greedy"}}), "topk_method is \"greedy\""},
      {with(llama_like("deepseek_v3"), {{"scoring_func", "softmax"}}),
       "scoring_func is \"softmax\"; quip knows \"sigmoid\""},
      {with(llama_like("deepseek_v3"), {{"head_dim", 48}}), "head_dim is 48"},
      {with(llama_like("deepseek_v3"), {{"num_key_value_heads", 2}}), "num_key_value_heads is 2"},
      {with(llama_like("glm4_moe"),
            {{"num_key_value_heads", 2}, {"layer_types", {"linear_attention"}}}),
       "layer_types has \"linear_attention\""},
      {with(llama_like("minimax_m2"),
            {{"num_key_value_heads", 2}, {"shared_intermediate_size", 32}}),
       "shared_intermediate_size is 32; quip knows 0"},
      {with(llama_like("minimax_m2"), {{"num_key_value_heads", 2}, {"attn_type_list", {1, 0}}}),
       "attn_type_list has 0"},
      {with(llama_like("llama4_text"), {{"num_key_value_heads", 2}, {"no_rope_layers", {1, 0}}}),
       "no_rope_layers lists 2 of 3 blocks"},
      {with(llama_like("llama4_text"),
            {{"num_key_value_heads", 2},
             {"layer_types", {"chunked_attention", "full_attention", "sliding_attention"}}}),
       "layer_types has \"sliding_attention\""},
      {with(llama_like("gpt_oss"), {{"num_key_value_heads", 2}, {"swiglu_limit", 0}}),
       "swiglu_limit is 0"},
      {with(llama_like("ernie4_5_moe"), {{"use_bias", true}}), "use_bias is true"},
      {with(llama_like("ernie4_5_moe"), {{"moe_k", 65}}), "moe_k is 65, and there are 64 experts"},
      {llama_like("qwen3_next"), "model_type is \"qwen3_next\"; quip knows llama"},
      {rope({{"type", "dynamic"}, {"factor", 2}}), "rope_scaling.type is \"dynamic\""},
      {rope({{"type", "linear"}}), "rope_scaling.factor is missing"},
      {rope({{"factor", 4}}), "rope_scaling.factor is there, but no rope_type"},
      {rope({{"rope_type", "llama3"}, {"factor", 8}}), "rope_scaling.low_freq_factor is missing"},
      {rope({{"rope_type", "llama3"},
             {"factor", 8},
             {"low_freq_factor", 4},
             {"high_freq_factor", 4},
             {"original_max_position_embeddings", 64}}),
       "rope_scaling.high_freq_factor is 4"},
      {with(llama, {{"rope_parameters", {{"full_attention", json::object()}}}}),
       "rope_parameters.full_attention"},
      {with(llama_like("mistral"), {{"num_key_value_heads", 2}, {"sliding_window", 0}}),
       "sliding_window is 0"},
      {llama_like("mistral"), "num_key_value_heads is 8, which does not divide"},
      {with(llama_like("qwen2"), {{"num_key_value_heads", 2},
                                  {"use_sliding_window", true},
                                  {"layer_types", {"full_attention"}}}),
       "layer_types does not list"},
      {with(llama_like("qwen2"),
            {{"num_key_value_heads", 2},
             {"use_sliding_window", true},
             {"layer_types", {"sliding_attention", "full_attention", "chunked_attention"}}}),
       "layer_types has \"chunked_attention\""},
      {with(opt(), {{"hidden_size", 50}}), "hidden_size is 50, not a multiple"},
      {with(opt(), {{"ffn_dim", nullptr}}), "ffn_dim is missing"},
      {with(opt(), {{"word_embed_proj_dim", 0}}), "word_embed_proj_dim is 0"},
      {with(opt(), {{"activation_function", "tanh"}}), "activation_function is \"tanh\""},
      {with(opt(), {{"enable_bias", "yes"}}), "enable_bias is \"yes\""},
  };
  for (const Case& c : cases) {
    EXPECT_THAT(rejection(c.document.dump()),
                AllOf(HasSubstr("m/config.json: "), HasSubstr(c.culprit)));
  }
  EXPECT_THAT(rejection("{\"model_type\": "), HasSubstr("m/config.json: not valid JSON"));
  EXPECT_THAT(rejection("[]"), HasSubstr("m/config.json: not a JSON object"));
}

TEST(Config, ReadsTheModelsOfTheTestData) {
  const std::filesystem::path models = std::filesystem::path(QUIP_TEST_DATA) / "models";
  const ModelConfig nano = read_config(models / "llama-nano");
  EXPECT_EQ(nano.hidden, 128);
  EXPECT_EQ(nano.kv_heads, 2);
  EXPECT_EQ(read_config(models / "opt-micro").hidden, 192);
  EXPECT_EQ(read_config(models / "opt-micro" / "config.json").hidden, 192);
}

}  // namespace
}  // namespace quip::config_test
