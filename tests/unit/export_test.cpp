#include "quip/pipeline/export.hpp"

#include <cstring>

#include "support/store_fixture.hpp"
#include <gtest/gtest.h>

#include "quip/io/safetensors.hpp"

namespace quip {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::message_of;
using test::text_of;

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

class ExportTest : public testing::Test {
 protected:
  ExportTest() {
    fs::create_directories(original_);
    write_original("config.json",
                   R"({"model_type": "llama", "torch_dtype": "float32", "zeta": 1})");
    write_original("tokenizer.json", "{}");
    write_original("generation_config.json", R"({"eos_token_id": 2})");
    write_original("model.safetensors", "not to be copied");
    PackedWriter writer(comm_, packed_, {});
    writer.write_block(0, {small_layer("model.layers.0.b"), small_layer("model.layers.0.a")});
    writer.write_block(1, {small_layer("model.layers.1.a")});
    test::MemorySource source;
    source.add_float("norm", {1.0F, 1.001953125F, 3.14159265F, -2.0F});
    source.add_half("half", DType::f16, {0x3C00, 0x7BFF, 0x0001});
    source.add_half("brain", DType::bf16, {0x3F80, 0x1234, 0xFFFF});
    source.add("scalar", DType::f32, {}, 1);
    writer.write_rest(source, source.names());
    writer.finish({});
  }

  void write_original(const char* name, const std::string& text) const {
    std::ofstream(original_ / name) << text;
  }
  void run() { export_checkpoint(comm_, PackedModel(packed_), original_, out_); }

  /// The stored 16-bit elements of an exported tensor.
  [[nodiscard]] std::vector<std::uint16_t> elements(const std::string& name) const {
    const auto checkpoint = open_checkpoint(out_);
    EXPECT_EQ(checkpoint->info(name).dtype, DType::bf16);
    std::vector<std::uint16_t> values(static_cast<std::size_t>(checkpoint->info(name).elements()));
    checkpoint->read(name, 0, std::as_writable_bytes(std::span(values)));
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
    EXPECT_EQ(elements(name), expected) << name;
  }
  EXPECT_EQ(open_checkpoint(out_)->info("model.layers.1.a.weight").shape,
            (std::vector<index_t>{2, 4}));
}

TEST_F(ExportTest, RoundsTheOtherTensorsToNearestEven) {
  run();
  EXPECT_EQ(elements("norm"), (std::vector<std::uint16_t>{0x3F80, 0x3F80, 0x4049, 0xC000}));
  // 1, 65504 (rounds up to 65536) and 2⁻²⁴
  EXPECT_EQ(elements("half"), (std::vector<std::uint16_t>{0x3F80, 0x4780, 0x3380}));
  EXPECT_EQ(elements("brain"), (std::vector<std::uint16_t>{0x3F80, 0x1234, 0xFFFF}));
  EXPECT_TRUE(open_checkpoint(out_)->info("scalar").shape.empty());
}

TEST_F(ExportTest, WritesOneShardPerBlockAndOneForTheRest) {
  run();
  EXPECT_EQ(test::files_below(out_),
            (std::set<std::string>{
                "config.json", "generation_config.json", "model-00001-of-00003.safetensors",
                "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors",
                "model.safetensors.index.json", "tokenizer.json"}));
  const json index = json::parse(text_of(out_ / "model.safetensors.index.json"));
  EXPECT_EQ(index.at("metadata").at("total_size"), 3 * 16 + 8 + 6 + 6 + 2);
  const json& map = index.at("weight_map");
  EXPECT_EQ(map.size(), 7U);
  EXPECT_EQ(map.at("model.layers.0.b.weight"), "model-00001-of-00003.safetensors");
  EXPECT_EQ(map.at("model.layers.1.a.weight"), "model-00002-of-00003.safetensors");
  EXPECT_EQ(map.at("norm"), "model-00003-of-00003.safetensors");
}

TEST_F(ExportTest, HeaderIsSortedAndTheDataAligned) {
  run();
  const std::string text = text_of(out_ / "model-00001-of-00003.safetensors");
  std::uint64_t length = 0;
  std::memcpy(&length, text.data(), sizeof(length));
  EXPECT_EQ(length % 8, 0U);
  EXPECT_EQ(text.size(), 8 + length + 2 * 16);
  const json header = json::parse(text.substr(8, length));
  EXPECT_EQ(header.at("__metadata__").at("format"), "pt");
  EXPECT_EQ(header.at("model.layers.0.a.weight").at("data_offsets"), (json{0, 16}));
  EXPECT_EQ(header.at("model.layers.0.b.weight").at("data_offsets"), (json{16, 32}));
}

TEST_F(ExportTest, ChangesNothingButTheTypeInTheConfiguration) {
  run();
  EXPECT_EQ(json::parse(text_of(out_ / "config.json")),
            json::parse(R"({"model_type": "llama", "torch_dtype": "bfloat16", "zeta": 1})"));
  EXPECT_EQ(text_of(out_ / "generation_config.json"), R"({"eos_token_id": 2})");
}

TEST_F(ExportTest, KnowsTheNewerNameOfTheType) {
  write_original("config.json", R"({"dtype": "float16"})");
  run();
  EXPECT_EQ(json::parse(text_of(out_ / "config.json")),
            json::parse(R"({"dtype": "bfloat16", "torch_dtype": "bfloat16"})"));
}

TEST_F(ExportTest, RefusesAnOutputThatIsNotEmpty) {
  run();
  const std::string message = message_of([&] { run(); });
  EXPECT_NE(message.find(out_.string() + ": the output directory is not empty"), std::string::npos)
      << message;
}

TEST_F(ExportTest, DamageEndsTheExportWithoutAnIndex) {
  const fs::path file = packed_ / "blocks/block_00001.h5";
  std::string text = text_of(file);
  const std::size_t place = text.find("\xE4\x1B");  // the codes
  ASSERT_NE(place, std::string::npos);
  text[place] = '\0';
  std::ofstream(file, std::ios::binary) << text;
  const std::string message = message_of([&] { run(); });
  EXPECT_NE(message.find(file.string() + ": the file's bytes do not match"), std::string::npos)
      << message;
  EXPECT_FALSE(fs::exists(out_ / "model.safetensors.index.json"));
  EXPECT_FALSE(fs::exists(out_ / "model-00002-of-00003.safetensors"));
}

}  // namespace
}  // namespace quip
