#include "quip/model/family.hpp"

#include <map>
#include <string>
#include <vector>

#include "support/memory_source.hpp"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quip/core/error.hpp"

namespace quip::test::family_test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

using Shapes = std::map<std::string, std::vector<index_t>>;

/// 2 blocks of width 12: 6 query heads and 2 key/value heads of 4 channels.
ModelConfig llama_config() {
  ModelConfig c;
  c.model_type = "llama";
  c.hidden = c.embedding_dim = 12;
  c.intermediate = 20;
  c.blocks = 2;
  c.heads = 6;
  c.kv_heads = 2;
  c.head_dim = 4;
  c.vocabulary = 30;
  c.max_positions = 16;
  return c;
}

ModelConfig opt_config() {
  ModelConfig c = llama_config();
  c.model_type = "opt";
  c.kv_heads = c.heads;
  c.head_dim = 2;
  c.activation = Activation::relu;
  c.tied_head = true;
  return c;
}

/// The tensors of a Llama checkpoint, as transformers writes them.
Shapes llama_shapes() {
  Shapes shapes = {{"model.embed_tokens.weight", {30, 12}},
                   {"model.norm.weight", {12}},
                   {"lm_head.weight", {30, 12}}};
  for (const std::string at : {"model.layers.0.", "model.layers.1."}) {
    shapes[at + "input_layernorm.weight"] = {12};
    shapes[at + "post_attention_layernorm.weight"] = {12};
    shapes[at + "self_attn.q_proj.weight"] = {24, 12};
    shapes[at + "self_attn.k_proj.weight"] = {8, 12};
    shapes[at + "self_attn.v_proj.weight"] = {8, 12};
    shapes[at + "self_attn.o_proj.weight"] = {12, 24};
    shapes[at + "mlp.gate_proj.weight"] = {20, 12};
    shapes[at + "mlp.up_proj.weight"] = {20, 12};
    shapes[at + "mlp.down_proj.weight"] = {12, 20};
  }
  return shapes;
}

/// The tensors of an OPT checkpoint whose names start with `root`.
Shapes opt_shapes(const std::string& root) {
  Shapes shapes = {{root + "embed_tokens.weight", {30, 12}},
                   {root + "embed_positions.weight", {18, 12}},
                   {root + "final_layer_norm.weight", {12}},
                   {root + "final_layer_norm.bias", {12}}};
  for (const char* block : {"0", "1"}) {
    const std::string at = root + "layers." + block + ".";
    for (const char* norm : {"self_attn_layer_norm", "final_layer_norm"}) {
      shapes[at + norm + ".weight"] = {12};
      shapes[at + norm + ".bias"] = {12};
    }
    for (const char* linear : {"q_proj", "k_proj", "v_proj", "out_proj"}) {
      shapes[at + "self_attn." + linear + ".weight"] = {12, 12};
      shapes[at + "self_attn." + linear + ".bias"] = {12};
    }
    shapes[at + "fc1.weight"] = {20, 12};
    shapes[at + "fc1.bias"] = {20};
    shapes[at + "fc2.weight"] = {12, 20};
    shapes[at + "fc2.bias"] = {12};
  }
  return shapes;
}

void fill(MemorySource& source, const Shapes& shapes) {
  for (const auto& [name, shape] : shapes) source.set(name, shape);
}

/// Everything that a family asks for, as a checkpoint would list it.
Shapes asked_for(const Family& family) {
  Shapes shapes;
  const auto take = [&](const TensorSpec& tensor) { shapes[tensor.name] = tensor.shape; };
  take(family.embedding());
  take(family.head());
  for (const TensorSpec& tensor : family.end_tensors()) take(tensor);
  for (index_t block = 0; block < family.config().blocks; ++block) {
    for (const TensorSpec& tensor : family.block_tensors(block)) take(tensor);
    for (const LinearSpec& linear : family.linears(block)) {
      shapes[linear.name + ".weight"] = {linear.rows, linear.cols};
    }
  }
  return shapes;
}

std::string message_of(const ModelConfig& config, const TensorSource& source) {
  try {
    (void)make_family(config, source);
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

struct Tapped {
  std::string type;
  int tap;
};

void expect_linears(const Family& family, const std::vector<Tapped>& expected) {
  const auto& linears = family.linears(1);
  ASSERT_EQ(linears.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(linears[i].type, expected[i].type);
    EXPECT_EQ(linears[i].tap, expected[i].tap) << linears[i].name;
    EXPECT_TRUE(linears[i].name.ends_with("." + linears[i].type)) << linears[i].name;
    EXPECT_EQ(family.block(1).tap_width(linears[i].tap), linears[i].cols) << linears[i].name;
  }
}

TEST(LlamaFamily, AsksForExactlyTheTensorsOfACheckpoint) {
  MemorySource source;
  fill(source, llama_shapes());
  const auto family = make_family(llama_config(), source);
  EXPECT_EQ(asked_for(*family), llama_shapes());
  EXPECT_EQ(family->max_length(), 16);
}

TEST(LlamaFamily, LinearsInOrderWithTheirTaps) {
  expect_linears(*make_unchecked_family(llama_config(), MemorySource()), {{"q_proj", 0},
                                                                          {"k_proj", 0},
                                                                          {"v_proj", 0},
                                                                          {"o_proj", 1},
                                                                          {"gate_proj", 2},
                                                                          {"up_proj", 2},
                                                                          {"down_proj", 3}});
}

TEST(LlamaFamily, BiasesAppearWhereTheConfigurationHasThem) {
  ModelConfig config = llama_config();
  config.attention_bias = true;  // as in Qwen2: q, k and v only
  Shapes expected = llama_shapes();
  for (const std::string at : {"model.layers.0.self_attn.", "model.layers.1.self_attn."}) {
    expected[at + "q_proj.bias"] = {24};
    expected[at + "k_proj.bias"] = {8};
    expected[at + "v_proj.bias"] = {8};
  }
  EXPECT_EQ(asked_for(*make_unchecked_family(config, MemorySource())), expected);

  config.attention_output_bias = config.mlp_bias = true;
  for (const std::string at : {"model.layers.0.", "model.layers.1."}) {
    expected[at + "self_attn.o_proj.bias"] = {12};
    expected[at + "mlp.gate_proj.bias"] = {20};
    expected[at + "mlp.up_proj.bias"] = {20};
    expected[at + "mlp.down_proj.bias"] = {12};
  }
  EXPECT_EQ(asked_for(*make_unchecked_family(config, MemorySource())), expected);
}

TEST(LlamaFamily, ATiedHeadIsTheEmbedding) {
  ModelConfig config = llama_config();
  config.tied_head = true;
  EXPECT_EQ(make_unchecked_family(config, MemorySource())->head().name,
            "model.embed_tokens.weight");
}

TEST(OptFamily, AsksForExactlyTheTensorsOfACheckpointUnderEitherPrefix) {
  for (const char* root : {"model.decoder.", "decoder."}) {
    MemorySource source;
    fill(source, opt_shapes(root));
    EXPECT_EQ(asked_for(*make_family(opt_config(), source)), opt_shapes(root));
  }
}

TEST(OptFamily, LinearsInOrderWithTheirTaps) {
  expect_linears(
      *make_unchecked_family(opt_config(), MemorySource()),
      {{"q_proj", 0}, {"k_proj", 0}, {"v_proj", 0}, {"out_proj", 1}, {"fc1", 2}, {"fc2", 3}});
}

TEST(OptFamily, ProjectionsNormsBiasesAndHeadFollowTheConfiguration) {
  const std::string root = "model.decoder.";
  ModelConfig config = opt_config();
  config.embedding_dim = 5;
  config.tied_head = false;
  Shapes expected = opt_shapes(root);
  expected[root + "embed_tokens.weight"] = {30, 5};
  expected["lm_head.weight"] = {30, 5};
  expected[root + "project_in.weight"] = {12, 5};
  expected[root + "project_out.weight"] = {5, 12};
  EXPECT_EQ(asked_for(*make_unchecked_family(config, MemorySource())), expected);

  // Without the norm before each part there is none after the last block either.
  config.norm_before = false;
  expected.erase(root + "final_layer_norm.weight");
  expected.erase(root + "final_layer_norm.bias");
  EXPECT_EQ(asked_for(*make_unchecked_family(config, MemorySource())), expected);
  config.norm_before = true;
  config.final_norm = false;
  EXPECT_EQ(asked_for(*make_unchecked_family(config, MemorySource())), expected);

  config.norm_affine = config.bias = false;
  std::erase_if(expected, [](const auto& item) {
    return item.first.ends_with(".bias") || item.first.find("layer_norm") != std::string::npos;
  });
  EXPECT_EQ(asked_for(*make_unchecked_family(config, MemorySource())), expected);
}

/// Tensors of Phi-3, whose linears share some of them.
Shapes phi3_shapes() {
  Shapes shapes = llama_shapes();
  std::erase_if(shapes, [](const auto& item) {
    const std::string& name = item.first;
    return name.find("q_proj") != std::string::npos || name.find("k_proj") != std::string::npos ||
           name.find("v_proj") != std::string::npos || name.find("gate") != std::string::npos ||
           name.find("up_proj") != std::string::npos;
  });
  for (const std::string at : {"model.layers.0.", "model.layers.1."}) {
    shapes[at + "self_attn.qkv_proj.weight"] = {24 + 2 * 8, 12};
    shapes[at + "mlp.gate_up_proj.weight"] = {2 * 20, 12};
  }
  return shapes;
}

ModelConfig phi3_config() {
  ModelConfig config = llama_config();
  config.model_type = "phi3";
  return config;
}

TEST(Phi3Family, LinearsAreRowsOfTensorsThatTheyShare) {
  MemorySource source;
  fill(source, phi3_shapes());
  const auto family = make_family(phi3_config(), source);
  Shapes stored;
  std::vector<std::string> names;
  std::vector<index_t> rows;
  for (const LinearSpec& linear : family->linears(1)) {
    names.push_back(linear.type);
    rows.push_back(linear.stored.offset / linear.cols);
    EXPECT_EQ(linear.stored.row_stride, linear.cols);
    EXPECT_EQ(linear.stored.column_stride, 1);
    EXPECT_EQ(linear.tensor().shape, phi3_shapes().at(linear.stored.tensor));
  }
  EXPECT_THAT(names, testing::ElementsAre("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj",
                                          "up_proj", "down_proj"));
  EXPECT_THAT(rows, testing::ElementsAre(0, 24, 32, 0, 0, 20, 0));
}

TEST(Phi3Family, ASharedTensorIsNeededUntilAllItsRowsAreElsewhere) {
  MemorySource source;
  fill(source, phi3_shapes());
  source.erase("model.layers.0.self_attn.qkv_proj.weight");
  const auto packed = [](const char* pattern) {
    return [pattern](const std::string& name) {
      return name.starts_with("model.layers.0.self_attn.") && name.ends_with(pattern);
    };
  };
  EXPECT_NO_THROW((void)make_family(phi3_config(), source, packed("_proj")));
  EXPECT_THROW((void)make_family(phi3_config(), source, packed("q_proj")), Error);
}

/// 2 blocks of width 12 and 3 experts of width 5.
ModelConfig gpt_oss_config() {
  ModelConfig config = llama_config();
  config.model_type = "gpt_oss";
  config.router = {.experts = 3, .chosen = 1};
  config.expert_intermediate = 5;
  return config;
}

TEST(GptOssFamily, ExpertsAreStridedPartsOfTheirTensors) {
  const auto family = make_unchecked_family(gpt_oss_config(), MemorySource());
  const LinearSpec* up = nullptr;
  const LinearSpec* down = nullptr;
  for (const LinearSpec& linear : family->linears(1)) {
    if (linear.name == "model.layers.1.mlp.experts.2.up_proj") up = &linear;
    if (linear.name == "model.layers.1.mlp.experts.2.down_proj") down = &linear;
  }
  ASSERT_TRUE(up != nullptr && down != nullptr);
  EXPECT_TRUE(up->shares_tensor() && down->shares_tensor());
  EXPECT_EQ(up->tensor().name, "model.layers.1.mlp.experts.gate_up_proj");
  EXPECT_THAT(up->tensor().shape, testing::ElementsAre(3, 12, 10));
  EXPECT_EQ(up->stored.offset, 2 * 120 + 1);
  EXPECT_EQ(up->stored.row_stride, 2);
  EXPECT_EQ(up->stored.column_stride, 10);
  EXPECT_EQ(down->tensor().name, "model.layers.1.mlp.experts.down_proj");
  EXPECT_EQ(down->stored.offset, 2 * 60);
  EXPECT_EQ(down->stored.row_stride, 1);
  EXPECT_EQ(down->stored.column_stride, 12);
  for (const TensorSpec& tensor : family->block_tensors(1)) {
    if (tensor.name != "model.layers.1.mlp.experts.2.up_proj.bias") continue;
    ASSERT_TRUE(tensor.stored.has_value());
    EXPECT_EQ(tensor.stored->tensor, "model.layers.1.mlp.experts.gate_up_proj_bias");
    EXPECT_EQ(tensor.stored->offset, 2 * 10 + 1);
    EXPECT_EQ(tensor.stored->column_stride, 2);
    EXPECT_THAT(tensor.shape, testing::ElementsAre(5));
    return;
  }
  FAIL() << "no bias";
}

TEST(MakeFamily, EveryMissingTensorIsNamed) {
  for (const auto& [name, shape] : llama_shapes()) {
    MemorySource source;
    fill(source, llama_shapes());
    source.erase(name);
    EXPECT_THAT(message_of(llama_config(), source), HasSubstr("tensor " + name));
  }
}

TEST(MakeFamily, EveryWrongShapeIsNamed) {
  for (const auto& [name, shape] : opt_shapes("model.decoder.")) {
    MemorySource source;
    fill(source, opt_shapes("model.decoder."));
    source.set(name, {7, 7});
    EXPECT_THAT(message_of(opt_config(), source),
                AllOf(HasSubstr("tensor " + name + " of memory"), HasSubstr("[7, 7]")));
  }
}

TEST(MakeFamily, PackedLinearsAreNotLookedFor) {
  MemorySource source;
  fill(source, llama_shapes());
  source.erase("model.layers.1.mlp.up_proj.weight");
  const auto packed = [](const std::string& name) { return name == "model.layers.1.mlp.up_proj"; };
  EXPECT_EQ(asked_for(*make_family(llama_config(), source, packed)), llama_shapes());
  source.erase("model.layers.0.mlp.up_proj.weight");
  EXPECT_THROW((void)make_family(llama_config(), source, packed), Error);
}

TEST(WeightSet, NamesWhatWasNeverLoaded) {
  WeightSet weights;
  EXPECT_EQ(weights.optional("").data, nullptr);
  try {
    (void)weights["a.weight"];
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("tensor a.weight was not loaded"));
  }
}

}  // namespace
}  // namespace quip::test::family_test
