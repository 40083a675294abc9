#include "quip/pipeline/export.hpp"

#include <cstring>

#include "support/store_fixture.hpp"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quip/core/digest.hpp"
#include "quip/io/safetensors.hpp"
#include "quip/quant/code/dequantize.hpp"

namespace quip::export_test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::message_of;
using test::text_of;
using testing::AllOf;
using testing::HasSubstr;

constexpr const char* config_text =
    R"({"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, )"
    R"("num_attention_heads": 4, "vocab_size": 100, "max_position_embeddings": 32, "zeta": 1)";

/// Two rows on the 2-bit grid: (q − zero)·scale is exact in bf16 for these.
StoredLayer small_layer(const std::string& name) {
  StoredLayer stored;
  stored.name = name;
  stored.method = "nearest";
  QuantizedLinear& layer = stored.layer;
  layer.rows = 2;
  layer.cols = 4;
  layer.bits = 2;
  layer.grid = GridKind::minmax;
  layer.transform = TransformKind::none;
  layer.codes = {0b11100100, 0b00011011};  // 0 1 2 3 and 3 2 1 0, least significant first
  layer.scale = {0.5F, 2.0F};
  layer.zero = {1, 2};
  return stored;
}

/// The header of a safetensors file, by the format's definition.
json header_of(const fs::path& file) {
  const std::string text = text_of(file);
  std::uint64_t length = 0;
  std::memcpy(&length, text.data(), sizeof(length));
  return json::parse(text.substr(8, length));
}

class ExportTest : public testing::Test {
 protected:
  ExportTest() {
    fs::create_directories(original_);
    write_original("config.json", config_text + std::string(R"(, "torch_dtype": "float32"})"));
    write_original("model.safetensors", "not to be copied");
    test::MemorySource source;
    source.add_float("norm", {1.0F, 1.001953125F, 3.14159265F, -2.0F});
    source.add_half("half", DType::f16, {0x3C00, 0x7BFF, 0x0001});
    source.add_half("brain", DType::bf16, {0x3F80, 0x1234, 0xFFFF});
    source.add("scalar", DType::f32, {}, 1);
    pack(source);
  }

  /// Returns the header of a manifest, as far as exports read it.
  static json header(const std::string& config_digest) {
    return {{"quip_version", "0"},
            {"options", {{"samples", 1}}},
            {"inputs", {{"config_digest", config_digest}}}};
  }
  /// Makes the packed model anew, from the present config.json.
  void pack(const test::MemorySource& source) {
    fs::remove_all(packed_);
    const std::string config = text_of(original_ / "config.json");
    const std::string digest = digest_of(std::as_bytes(std::span(config)));
    PackedWriter writer(comm_, packed_, header(digest));
    writer.write_block(0, {small_layer("model.layers.0.b"), small_layer("model.layers.0.a")});
    writer.write_block(1, {small_layer("model.layers.1.a")});
    writer.write_rest(source, source.names());
    writer.finish({});
  }
  void write_original(const fs::path& name, const std::string& text) const {
    fs::create_directories((original_ / name).parent_path());
    std::ofstream(original_ / name) << text;
  }
  void run(index_t shard_bytes = most_shard_bytes) {
    export_checkpoint(comm_, PackedModel(packed_), original_, out_, {.shard_bytes = shard_bytes});
  }
  [[nodiscard]] std::string error() {
    return message_of([&] { run(); });
  }

  /// The stored bytes of an exported tensor, which has to have this type.
  [[nodiscard]] std::vector<std::byte> bytes(const std::string& name, DType dtype) const {
    const auto checkpoint = open_checkpoint(out_);
    const TensorInfo& info = checkpoint->info(name);
    EXPECT_EQ(info.dtype, dtype) << name;
    std::vector<std::byte> stored(static_cast<std::size_t>(info.bytes()));
    checkpoint->read(name, 0, stored);
    return stored;
  }
  /// The 16-bit elements of an exported tensor.
  [[nodiscard]] std::vector<std::uint16_t> elements(const std::string& name, DType dtype) const {
    const std::vector<std::byte> stored = bytes(name, dtype);
    std::vector<std::uint16_t> values(stored.size() / 2);
    std::memcpy(values.data(), stored.data(), stored.size());
    return values;
  }

  SelfCollectives comm_;
  test::TemporaryFolder folder_;
  fs::path original_ = folder_.path() / "original";
  fs::path packed_ = folder_.path() / "packed";
  fs::path out_ = folder_.path() / "out";
};

TEST_F(ExportTest, WritesTheWeightsThatTheCodesStandFor) {
  run();
  // By hand: row 0 is 0.5·(0…3 − 1) = −0.5 0 0.5 1; row 1 is 2·(3…0 − 2) = 2 0 −2 −4.
  const std::vector<std::uint16_t> expected = {0xBF00, 0x0000, 0x3F00, 0x3F80,
                                               0x4000, 0x0000, 0xC000, 0xC080};
  for (const char* name :
       {"model.layers.0.a.weight", "model.layers.0.b.weight", "model.layers.1.a.weight"}) {
    EXPECT_EQ(elements(name, DType::bf16), expected) << name;
  }
  EXPECT_EQ(open_checkpoint(out_)->info("model.layers.1.a.weight").shape,
            (std::vector<index_t>{2, 4}));
}

TEST_F(ExportTest, KeepsTheOtherTensorsAsTheyWere) {
  run();
  const std::vector<float> norm = {1.0F, 1.001953125F, 3.14159265F, -2.0F};
  const auto expected = std::as_bytes(std::span(norm));
  EXPECT_EQ(bytes("norm", DType::f32), std::vector<std::byte>(expected.begin(), expected.end()));
  EXPECT_EQ(elements("half", DType::f16), (std::vector<std::uint16_t>{0x3C00, 0x7BFF, 0x0001}));
  EXPECT_EQ(elements("brain", DType::bf16), (std::vector<std::uint16_t>{0x3F80, 0x1234, 0xFFFF}));
  EXPECT_TRUE(open_checkpoint(out_)->info("scalar").shape.empty());
}

// Odd numbers of bytes first would leave the wider types unaligned, which torch refuses.
TEST_F(ExportTest, CarriesTensorsOfEveryTypeByteForByte) {
  test::MemorySource source;
  std::size_t count = 0;
  for (int t = 0; t <= static_cast<int>(DType::u64); ++t) {
    const auto type = static_cast<DType>(t);
    // Eight elements are whole bytes of any type; three, of those that have at least a byte.
    const index_t elements = bytes_of(type, 8) < 8 ? 8 : 3;
    source.add(std::string(to_string(type)), type, {elements}, static_cast<unsigned>(++count));
  }
  pack(source);
  EXPECT_TRUE(PackedModel(packed_).verify().empty());
  run();
  for (const std::string& name : source.names()) {
    EXPECT_EQ(bytes(name, source.info(name).dtype), source.bytes(name)) << name;
  }
  const json header = header_of(out_ / "model.safetensors");
  for (const auto& [name, entry] : header.items()) {
    if (!source.contains(name)) continue;
    const auto offset = entry.at("data_offsets").at(0).get<index_t>();
    EXPECT_EQ(offset % size_of(source.info(name).dtype), 0) << name;
  }
}

// HDF5, which keeps them in between, reads "/" and "." as parts of a path.
TEST_F(ExportTest, NamesOfTensorsMayHoldAnything) {
  test::MemorySource source;
  unsigned seed = 0;
  for (const char* name : {"a/b", "a", ".", "..", "/", "a%2Fb", "%", "", "ü", "tab\there"}) {
    source.add(name, DType::i16, {5}, ++seed);
  }
  source.add(std::string("zero\0byte", 9), DType::i16, {5}, ++seed);
  pack(source);
  EXPECT_TRUE(PackedModel(packed_).verify().empty());
  run();
  for (const std::string& name : source.names()) {
    EXPECT_EQ(bytes(name, DType::i16), source.bytes(name)) << name;
  }
}

// Of two experts of width 2 the second's up-projection and both down-projections stay: their
// tensors are stored by inputs, or, decoded from mxfp4, by outputs.
TEST_F(ExportTest, StackedExpertsAreWrittenByInputs) {
  constexpr const char* gpt_oss =
      R"({"model_type": "gpt_oss", "hidden_size": 4, "intermediate_size": 2, "head_dim": 2, )"
      R"("num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, )"
      R"("vocab_size": 3, "max_position_embeddings": 8, "num_local_experts": 2, )"
      R"("num_experts_per_tok": 1)";
  const std::string experts = "model.layers.0.mlp.experts.";
  // Element (i, j) of the linear with these outputs and inputs, for all experts by themselves.
  const auto kept = [](index_t expert, index_t output, index_t input) {
    return static_cast<float>(100 * expert + 10 * output + input);
  };
  const Matrix<float> quantized = dequantize(small_layer("").layer);
  for (const bool blocks : {false, true}) {
    write_original("config.json",
                   std::string(gpt_oss) +
                       (blocks ? R"(, "quantization_config": {"quant_method": "mxfp4"}})" : "}"));
    test::MemorySource rest;
    const auto add = [&](const char* name, index_t outputs, index_t inputs) {
      std::vector<float> values(at(2 * outputs * inputs));
      for (index_t e = 0; e < 2; ++e) {
        for (index_t i = 0; i < outputs; ++i) {
          for (index_t j = 0; j < inputs; ++j) {
            const index_t place = blocks ? i * inputs + j : j * outputs + i;
            values[at(e * outputs * inputs + place)] = kept(e, i, j);
          }
        }
      }
      const std::vector<index_t> shape =
          blocks ? std::vector{2L, outputs, inputs} : std::vector{2L, inputs, outputs};
      rest.set(experts + name + (blocks ? "_blocks" : ""), shape, values);
    };
    add("gate_up_proj", 4, 4);
    add("down_proj", 4, 2);
    fs::remove_all(packed_);
    fs::remove_all(out_);
    const std::string config = text_of(original_ / "config.json");
    const std::string digest = digest_of(std::as_bytes(std::span(config)));
    PackedWriter writer(comm_, packed_, header(digest));
    writer.write_block(0, {small_layer(experts + "0.gate_proj"), small_layer(experts + "0.up_proj"),
                           small_layer(experts + "1.gate_proj")});
    writer.write_rest(rest, rest.names());
    writer.finish({});
    run();

    const auto written = open_checkpoint(out_);
    EXPECT_THAT(written->names(),
                testing::ElementsAre(experts + "down_proj", experts + "gate_up_proj"));
    EXPECT_FALSE(json::parse(text_of(out_ / "config.json")).contains("quantization_config"));
    ASSERT_EQ(written->info(experts + "gate_up_proj").shape, (std::vector<index_t>{2, 4, 4}));
    ASSERT_EQ(written->info(experts + "down_proj").shape, (std::vector<index_t>{2, 2, 4}));
    std::vector<float> both(32);
    read_floats(*written, experts + "gate_up_proj", 0, both);
    std::vector<float> down(16);
    read_floats(*written, experts + "down_proj", 0, down);
    for (index_t e = 0; e < 2; ++e) {
      for (index_t input = 0; input < 4; ++input) {
        for (index_t output = 0; output < 4; ++output) {
          const bool stays = e == 1 && output % 2 == 1;
          const float expected = stays ? kept(e, output, input) : quantized(output / 2, input);
          EXPECT_EQ(both[at((e * 4 + input) * 4 + output)], expected);
          if (input >= 2) continue;
          EXPECT_EQ(down[at((e * 2 + input) * 4 + output)], kept(e, output, input));
        }
      }
    }
  }
}

TEST_F(ExportTest, WritesASmallModelAsOneFile) {
  write_original("tokenizer.json", "{}");
  run();
  EXPECT_EQ(
      test::files_below(out_),
      (std::set<std::string>{"README.md", "config.json", "model.safetensors", "tokenizer.json"}));
}

// Three weights of 16 bytes, then brain (6), half (6), norm (16) and scalar (4).
TEST_F(ExportTest, BeginsAShardWhereTheNextTensorWouldNotFit) {
  run(32);
  EXPECT_EQ(
      test::files_below(out_),
      (std::set<std::string>{"README.md", "config.json", "model-00001-of-00003.safetensors",
                             "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors",
                             "model.safetensors.index.json"}));
  const json index = json::parse(text_of(out_ / "model.safetensors.index.json"));
  EXPECT_EQ(index.at("metadata").at("total_size"), 3 * 16 + 6 + 6 + 16 + 4);
  const json& map = index.at("weight_map");
  EXPECT_EQ(map.size(), 7U);
  EXPECT_EQ(map.at("model.layers.0.a.weight"), "model-00001-of-00003.safetensors");
  EXPECT_EQ(map.at("model.layers.1.a.weight"), "model-00002-of-00003.safetensors");
  EXPECT_EQ(map.at("half"), "model-00002-of-00003.safetensors");
  EXPECT_EQ(map.at("norm"), "model-00003-of-00003.safetensors");
  EXPECT_EQ(open_checkpoint(out_)->names().size(), 7U);
}

TEST_F(ExportTest, ATensorLargerThanAShardHasOneToItself) {
  run(1);
  EXPECT_TRUE(fs::exists(out_ / "model-00007-of-00007.safetensors"));
  EXPECT_EQ(open_checkpoint(out_)->names().size(), 7U);
}

TEST_F(ExportTest, HeaderIsSortedAndTheDataAligned) {
  run(32);
  const fs::path file = out_ / "model-00001-of-00003.safetensors";
  const json header = header_of(file);
  EXPECT_EQ(fs::file_size(file) % 8, 0U);
  EXPECT_EQ(header.at("__metadata__").at("format"), "pt");
  EXPECT_EQ(header.at("model.layers.0.a.weight").at("data_offsets"), (json{0, 16}));
  EXPECT_EQ(header.at("model.layers.0.b.weight").at("data_offsets"), (json{16, 32}));
}

TEST_F(ExportTest, ChangesNothingButTheTypeInTheConfiguration) {
  run();
  json expected = json::parse(text_of(original_ / "config.json"));
  expected["torch_dtype"] = "bfloat16";
  EXPECT_EQ(json::parse(text_of(out_ / "config.json")), expected);
}

TEST_F(ExportTest, KnowsTheNewerNameOfTheType) {
  write_original("config.json", config_text + std::string(R"(, "dtype": "float16"})"));
  pack({});
  run();
  const json config = json::parse(text_of(out_ / "config.json"));
  EXPECT_EQ(config.at("dtype"), "bfloat16");
  EXPECT_EQ(config.at("torch_dtype"), "bfloat16");
}

TEST_F(ExportTest, CopiesAllButWeightsAndCaches) {
  const std::set<std::string> kept = {"LICENSE",
                                      "tekken.json",
                                      "tokenizer.model",
                                      "modeling_x.py",
                                      "chat_template.jinja",
                                      "additional_chat_templates/tools.jinja",
                                      "original/params.json"};
  for (const std::string& name : kept) write_original(name, "text of " + name);
  for (const char* name :
       {"consolidated.safetensors", "pytorch_model.bin", "pytorch_model.bin.index.json",
        "model.safetensors.index.json", "original/consolidated.00.pth", "q4.gguf",
        ".cache/huggingface/x", ".git/HEAD", "__pycache__/modeling_x.pyc"}) {
    write_original(name, "no");
  }
  fs::create_symlink(original_ / "LICENSE", original_ / "NOTICE");
  out_ = original_ / "exported";  // in there lies neither it nor the packed model
  fs::rename(packed_, original_ / "packed");
  packed_ = original_ / "packed";
  run();
  std::set<std::string> found = test::files_below(out_);
  for (const std::string& name : kept) {
    EXPECT_EQ(found.erase(name), 1U) << name;
    EXPECT_EQ(text_of(out_ / name), "text of " + name);
  }
  EXPECT_EQ(found,
            (std::set<std::string>{"NOTICE", "README.md", "config.json", "model.safetensors"}));
}

TEST_F(ExportTest, ALinkToNowhereIsFoundBeforeAnythingIsWritten) {
  fs::create_symlink("../../blobs/0123", original_ / "tokenizer.json");
  EXPECT_THAT(error(), AllOf(HasSubstr("tokenizer.json"), HasSubstr("missing")));
  EXPECT_FALSE(fs::exists(out_));
}

TEST_F(ExportTest, RefusesAModelThatItWasNotMadeFrom) {
  write_original("config.json", config_text + std::string(R"(, "rope_theta": 5})"));
  EXPECT_THAT(error(), HasSubstr(packed_.string() + " was not made from " + original_.string() +
                                 ": their config.json differ"));
  EXPECT_FALSE(fs::exists(out_));
}

TEST_F(ExportTest, AMissingModelIsFoundBeforeAnythingIsWritten) {
  original_ = folder_.path() / "nope";
  EXPECT_THAT(error(), HasSubstr("nope"));
  EXPECT_FALSE(fs::exists(out_));
}

TEST_F(ExportTest, RefusesAnOutputThatIsNotEmpty) {
  run();
  const std::string message = message_of([&] { run(); });
  EXPECT_NE(message.find(out_.string() + ": the output directory is not empty"), std::string::npos)
      << message;
}

// The corrected command finds an empty directory.
TEST_F(ExportTest, DamageLeavesNothingBehind) {
  const fs::path file = packed_ / "blocks/block_00001.h5";
  const std::string intact = text_of(file);
  std::string damaged = intact;
  const std::size_t place = damaged.find("\xE4\x1B");  // the codes
  ASSERT_NE(place, std::string::npos);
  damaged[place] = '\0';
  std::ofstream(file, std::ios::binary) << damaged;
  EXPECT_THAT(error(), AllOf(HasSubstr(file.string() + ": the file's bytes do not match"),
                             HasSubstr("--repair")));
  EXPECT_TRUE(fs::is_empty(out_));
  std::ofstream(file, std::ios::binary) << intact;
  EXPECT_EQ(error(), "no error");
}

TEST_F(ExportTest, ADamagedTensorIsNamed) {
  const fs::path file = packed_ / "rest.h5";
  std::string text = text_of(file);
  const std::size_t place = text.find("\x34\x12\xFF\xFF");  // in brain
  ASSERT_NE(place, std::string::npos);
  text[place] = static_cast<char>(text[place] ^ 0x10);
  std::ofstream(file, std::ios::binary) << text;
  EXPECT_THAT(error(), AllOf(HasSubstr(file.string() + ": tensor brain does not match its digest"),
                             HasSubstr("quip quantize --repair")));
  EXPECT_TRUE(fs::is_empty(out_));
}

}  // namespace
}  // namespace quip::export_test
