// Directories that are no model, or more than one: what the user is told.
#include <filesystem>
#include <string>
#include <vector>

#include "support/safetensors_files.hpp"
#include <fmt/ranges.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quip/io/safetensors.hpp"
#include "quip/model/checkpoint.hpp"

namespace quip::test::model_directory_test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* config_text =
    R"({"model_type": "llama", "hidden_size": 4, "intermediate_size": 2, "num_hidden_layers": 1,
        "num_attention_heads": 1, "vocab_size": 3, "max_position_embeddings": 8})";

struct Stored {
  std::string name;
  std::vector<index_t> shape;
};

/// The tensors that a Llama of this configuration has.
std::vector<Stored> llama_tensors() {
  const std::string at = "model.layers.0.";
  return {{"model.embed_tokens.weight", {3, 4}},
          {"model.norm.weight", {4}},
          {"lm_head.weight", {3, 4}},
          {at + "input_layernorm.weight", {4}},
          {at + "post_attention_layernorm.weight", {4}},
          {at + "self_attn.q_proj.weight", {4, 4}},
          {at + "self_attn.k_proj.weight", {4, 4}},
          {at + "self_attn.v_proj.weight", {4, 4}},
          {at + "self_attn.o_proj.weight", {4, 4}},
          {at + "mlp.gate_proj.weight", {2, 4}},
          {at + "mlp.up_proj.weight", {2, 4}},
          {at + "mlp.down_proj.weight", {4, 2}}};
}

/// A file of fp32 zeros.
std::string zeros(const std::vector<Stored>& tensors) {
  std::string header;
  std::size_t at = 0;
  for (const Stored& tensor : tensors) {
    std::size_t bytes = sizeof(float);
    for (const index_t extent : tensor.shape) bytes *= static_cast<std::size_t>(extent);
    header += fmt::format(R"({}"{}":{{"dtype":"F32","shape":[{}],"data_offsets":[{},{}]}})",
                          header.empty() ? "" : ",", tensor.name, fmt::join(tensor.shape, ","), at,
                          at + bytes);
    at += bytes;
  }
  return file_of(fmt::format("{{{}}}", header), std::string(at, '\0'));
}

class ModelDirectory : public FilesTest {
 protected:
  /// Writes config.json and a Llama with `more` tensors.
  void write_model(const std::vector<Stored>& more, const std::string& config = config_text) const {
    std::vector<Stored> tensors = llama_tensors();
    tensors.insert(tensors.end(), more.begin(), more.end());
    (void)write("model.safetensors", zeros(tensors));
    (void)write("config.json", config);
  }
  [[nodiscard]] std::string rejection() const {
    return message_of([&] { (void)open_model_directory(directory_, false); });
  }
  [[nodiscard]] std::vector<std::string> remarks(bool allow_unused = false) const {
    return open_model_directory(directory_, allow_unused).remarks;
  }
};

TEST_F(ModelDirectory, OfAPlainModelNothingIsSaid) {
  write_model({});
  EXPECT_EQ(remarks(), std::vector<std::string>{});
}

TEST_F(ModelDirectory, TablesThatOldVersionsStoredAreNotMentioned) {
  write_model({{"model.layers.0.self_attn.rotary_emb.inv_freq", {2}}});
  EXPECT_EQ(remarks(), std::vector<std::string>{});
}

TEST_F(ModelDirectory, TensorsInABlockThatItsFamilyDoesNotHave) {
  const std::string at = "model.layers.0.";
  const std::vector<std::vector<Stored>> surplus = {
      {{at + "self_attn.q_norm.weight", {4}}},
      {{at + "self_attn.o_proj.bias", {4}}},
      {{at + "mlp.gate.weight", {2, 4}}, {at + "mlp.experts.0.up_proj.weight", {2, 4}}}};
  for (const std::vector<Stored>& more : surplus) {
    write_model(more);
    EXPECT_THAT(rejection(), AllOf(HasSubstr(directory_.string()), HasSubstr("LlamaForCausalLM"),
                                   HasSubstr(more[0].name), HasSubstr("--allow-unused")));
    EXPECT_THAT(remarks(true), ElementsAre(HasSubstr(more[0].name)));
  }
}

TEST_F(ModelDirectory, ABiasThatTheConfigurationAsksForIsUsed) {
  std::vector<Stored> biases;
  for (const char* linear : {"q", "k", "v", "o"}) {
    biases.push_back({fmt::format("model.layers.0.self_attn.{}_proj.bias", linear), {4}});
  }
  std::string config = config_text;
  config.insert(1, R"("attention_bias": true, )");
  write_model(biases, config);
  EXPECT_EQ(remarks(), std::vector<std::string>{});
}

TEST_F(ModelDirectory, TensorsOutsideTheBlocksAreMentionedByNumberAndName) {
  write_model({{"model.layers.1.mlp.up_proj.weight", {2, 4}},
               {"visual.0.weight", {1}},
               {"visual.1.weight", {1}},
               {"visual.2.weight", {1}}});
  EXPECT_THAT(remarks(), ElementsAre(AllOf(HasSubstr("4 tensors"), HasSubstr("model.layers.1."),
                                           HasSubstr("visual.1.weight, …"))));
}

TEST_F(ModelDirectory, CodeOfItsOwnIsMentioned) {
  std::string config = config_text;
  config.insert(1, R"("auto_map": {"AutoModelForCausalLM": "modeling.Mine"}, )");
  write_model({}, config);
  EXPECT_THAT(remarks(), ElementsAre(HasSubstr("auto_map")));
}

TEST_F(ModelDirectory, AnAdapterIsNoModel) {
  write_model({});
  (void)write("adapter_config.json", "{}");
  EXPECT_THAT(rejection(), AllOf(HasSubstr("adapter_config.json"), HasSubstr("merge")));
}

TEST_F(ModelDirectory, WithoutAConfiguration) {
  (void)write("model.safetensors", zeros(llama_tensors()));
  EXPECT_THAT(rejection(), AllOf(HasSubstr(directory_.string() + ": config.json is missing"),
                                 Not(HasSubstr("neither"))));
  std::filesystem::create_symlink("../blobs/77", directory_ / "config.json");
  EXPECT_THAT(rejection(), HasSubstr("config.json is a link to ../blobs/77, which is missing"));
}

TEST_F(ModelDirectory, ThatIsNotThere) {
  const auto message = [](const char* path) {
    return message_of([&] { (void)open_model_directory(path, false); });
  };
  EXPECT_THAT(message("meta-llama/Llama-2-7b-hf"),
              HasSubstr("hf download meta-llama/Llama-2-7b-hf"));
  for (const char* path : {"/no/where", "./no/where", "no/where/else", "nowhere"}) {
    EXPECT_THAT(message(path),
                AllOf(HasSubstr(path), HasSubstr("no such file"), Not(HasSubstr("hf"))));
  }
}

TEST_F(ModelDirectory, ThatHoldsOtherFormats) {
  (void)write("config.json", config_text);
  EXPECT_THAT(rejection(), HasSubstr("neither model.safetensors nor"));
  (void)write("pytorch_model.bin", "x");
  EXPECT_THAT(rejection(), AllOf(HasSubstr("pytorch_model.bin"), HasSubstr("save_pretrained")));
  (void)write("tiny.Q4_K_M.gguf", "GGUF");
  EXPECT_THAT(rejection(), AllOf(HasSubstr("tiny.Q4_K_M.gguf"), HasSubstr("it was made from")));
}

TEST_F(ModelDirectory, DownloadsThatFailed) {
  write_model({});
  (void)write("model.safetensors",
              "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3578192\n");
  EXPECT_THAT(rejection(), AllOf(HasSubstr("model.safetensors: is a git-lfs pointer"),
                                 HasSubstr("git lfs pull")));
  (void)write("model.safetensors", "<!DOCTYPE html><html><head><title>401</title></head></html>");
  EXPECT_THAT(rejection(), HasSubstr("model.safetensors: is an HTML page"));
  write_model({}, "<html>Not found</html>");
  EXPECT_THAT(rejection(), HasSubstr("config.json: is an HTML page"));
}

TEST_F(ModelDirectory, ShardsAndIndexThatMissEachOther) {
  (void)write("config.json", config_text);
  (void)write("model-00001-of-00002.safetensors", zeros(llama_tensors()));
  EXPECT_THAT(rejection(),
              AllOf(HasSubstr("shards (model-00001-of-00002.safetensors) but no index"),
                    HasSubstr("model.safetensors.index.json")));
  const auto index = directory_ / "model.safetensors.index.json";
  std::filesystem::create_symlink("../../blobs/0123", index);
  EXPECT_THAT(rejection(), HasSubstr("index.json is a link to ../../blobs/0123, which is missing"));
  std::filesystem::remove(index);
  (void)write("model.safetensors.index.json",
              R"({"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}})");
  EXPECT_THAT(rejection(), HasSubstr("shard model-00002-of-00002.safetensors is missing"));
  std::filesystem::create_symlink("../blobs/9", directory_ / "model-00002-of-00002.safetensors");
  EXPECT_THAT(rejection(),
              HasSubstr("model-00002-of-00002.safetensors is a link to ../blobs/9, which"));
}

TEST_F(ModelDirectory, AnIndexCountsMoreThanAStrayFile) {
  write_model({});
  (void)write("1.safetensors", one_tensor("w", {4}));
  (void)write("model.safetensors.index.json", R"({"weight_map": {"w": "1.safetensors"}})");
  std::vector<std::string> said;
  EXPECT_THAT(open_checkpoint(directory_, &said)->names(), ElementsAre("w"));
  EXPECT_THAT(
      said, ElementsAre(HasSubstr((directory_ / "model.safetensors").string() + ": is not read")));
}

TEST_F(ModelDirectory, AnIndexMayNameTheSingleFile) {
  (void)write("model.safetensors", one_tensor("w", {4}));
  (void)write("model.safetensors.index.json", R"({"weight_map": {"w": "model.safetensors"}})");
  std::vector<std::string> said;
  EXPECT_THAT(open_checkpoint(directory_, &said)->names(), ElementsAre("w"));
  EXPECT_THAT(said, testing::ElementsAre());
}

}  // namespace
}  // namespace quip::test::model_directory_test
