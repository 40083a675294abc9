// What a packed model takes of a device, by hand from what its manifest says of its layers.
#include "quip/pipeline/device_memory.hpp"

#include "pipeline/job_inputs.hpp"
#include "support/scalar_options.hpp"
#include "support/store_fixture.hpp"
#include <gtest/gtest.h>

#include "quip/pipeline/open_model.hpp"
#include "quip/plan/model_shapes.hpp"
#include "quip/quant/options/option_table.hpp"

namespace quip::device_memory_test {
namespace {

const std::string config =
    R"({"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 2, "vocab_size": 16, "max_position_embeddings": 64})";

/// A packed model of random codes whose manifest has the settings of `options`.
class PackedNeeds : public testing::Test {
 protected:
  /// Leaves the settings of `unknown` out, as if written before there were those options.
  [[nodiscard]] OpenModel written_with(const QuantizeOptions& options,
                                       const std::vector<std::string>& unknown = {}) const {
    std::ofstream(folder_.path() / "config.json") << config;
    std::filesystem::remove_all(folder_.path() / "packed");
    const plan::ModelShapes shapes = plan::open_shapes(folder_.path());
    const auto& family = shapes.family;
    SelfCollectives self;
    nlohmann::json header = manifest_header(options, 1, config, "", "");
    for (const std::string& key : unknown) header["options"].erase(key);
    PackedWriter writer(self, folder_.path() / "packed", header, Start::fresh, KeepStates::none);
    test::MemorySource rest;
    for (const TensorSpec& end : family->end_tensors()) add(rest, end);
    add(rest, family->embedding());
    add(rest, family->head());
    for (index_t b = 0; b < 3; ++b) {
      for (const TensorSpec& tensor : family->block_tensors(b)) add(rest, tensor);
      std::vector<StoredLayer> layers;
      for (const LinearSpec& linear : family->linears(b)) {
        if (b == 1 && linear.type == "q_proj" && !options.skip.empty()) {
          add(rest, {linear.name + ".weight", {linear.rows, linear.cols}});
        } else {
          layers.push_back(test::random_layer(linear.name, linear.rows, linear.cols, 2,
                                              GridKind::incoherent, true, 1));
        }
      }
      writer.write_block(b, layers);
    }
    writer.write_rest(rest, rest.names());
    writer.finish({});
    return open_model("", folder_.path() / "packed", false);
  }

  /// Of one sample of one token: nothing beside weights.
  [[nodiscard]] static DeviceNeeds needs_of(const OpenModel& model) {
    return device_needs({.family = *model.family,
                         .samples = 1,
                         .length = 1,
                         .kinds = kinds_of_blocks(*model.family, model.stored_as()),
                         .wide = {},
                         .packed = true});
  }

 private:
  static void add(test::MemorySource& source, const TensorSpec& tensor) {
    source.add(tensor.name, DType::f32, tensor.shape, 1);
  }

  test::TemporaryFolder folder_;
};

// Two norms, four linears of 32 × 32 and three of 32 · 48, in fp32 and bf16; workspaces of a lane
// and of the thread that hands out units.
constexpr index_t weights = 2 * 32 * 4 + (4 * 32 * 32 + 3 * 32 * 48) * (4 + 2);
constexpr index_t libraries = 2 * (index_t{32} << 20);
// Factors of U and V: 32 = 4 · 8 and 48 = 6 · 8, with a permutation for outputs and two for inputs.
constexpr index_t transform_of_down = (4 * 4 + 8 * 8 + 6 * 6 + 8 * 8) * 4 + (32 + 2 * 48) * 8;

// down_proj at 2 bits: codes, a grid of two floats, D̃, the second matrix, U and V.
TEST_F(PackedNeeds, AreThoseOfItsLargestLayer) {
  QuantizeOptions options;
  options.layer = kronecker_options();
  options.skip = "layers\\.1\\.self_attn\\.q_proj";
  const OpenModel model = written_with(options);
  EXPECT_EQ(needs_of(model).fixed,
            weights + libraries + 32 * 12 + 2 * 4 + 48 * 4 + 32 * 48 * 4 + transform_of_down);
  EXPECT_EQ(kinds_of_blocks(*model.family, model.stored_as()).size(), 2U);  // 0 and 2; 1
}

// A grid of two floats for every 8 of 48 columns, and no transform: nothing else beside codes.
TEST_F(PackedNeeds, FollowGridsAndTransforms) {
  QuantizeOptions options;
  options.layer = scalar_options();
  options.layer.processing = Processing::baseline;
  options.layer.bits = 4;
  options.layer.group_size = 8;
  EXPECT_EQ(needs_of(written_with(options)).fixed,
            weights + libraries + 32 * 48 / 2 + 32 * 6 * 2 * 4);
}

// Rows have scales of their own.
TEST_F(PackedNeeds, FollowOutputScales) {
  QuantizeOptions options;
  options.layer = kronecker_options();
  options.layer.output_scaling = true;
  EXPECT_EQ(needs_of(written_with(options)).fixed,
            weights + libraries + 32 * 12 + (2 + 48 + 32 + 32 * 48) * 4 + transform_of_down);
}

// Any layer here is padded to 128 × 128: states of 2 bits, values of 65,536 states, scales.
TEST_F(PackedNeeds, FollowTheCodebook) {
  EXPECT_EQ(needs_of(written_with({})).fixed,
            weights + libraries + 128 * 32 + (65536 + 128 + 128) * 4);
}

// Whatever was set, and what follows from it, also under an override.
TEST_F(PackedNeeds, SettingsComeBackFromTheManifest) {
  const auto check = [&](const std::vector<std::pair<std::string, std::string>>& given) {
    QuantizeOptions options;
    for (const LayerOption& option : layer_options()) {
      for (const auto& [name, value] : given) {
        if (name == option.name) option.parse(options.layer, value);
      }
    }
    options.overrides.add("down_proj:bits=4");
    const QuantizeOptions found = written_with(options).stored_as();
    for (const std::string layer : {"q_proj", "down_proj"}) {
      for (const LayerOption& option : layer_options()) {
        if (option.in_force == nullptr) continue;
        EXPECT_EQ(option.in_force(found.of(layer)), option.in_force(options.of(layer)))
            << option.name;
      }
    }
  };
  check({});
  check({{"trellis", "mcg"}, {"bits", "5"}, {"share-inputs", "off"}});
  check({{"codebook", "scalar"}, {"rho", "2.5"}, {"method", "ldlq-rg"}, {"output-scale", "off"}});
  check({{"processing", "baseline"}, {"group-size", "8"}, {"symmetric", "on"}, {"damp", "0.5"}});
}

// Models of earlier programs: nothing but what they knew.
TEST_F(PackedNeeds, OptionsThatTheRunDidNotKnowAreAtTheirDefaults) {
  const auto found = [&](const LayerOptions& layer, const std::vector<std::string>& unknown) {
    QuantizeOptions options;
    options.layer = layer;
    return written_with(options, unknown).stored_as().of("q_proj");
  };
  EXPECT_TRUE(found({}, {"trellis_feedback"}).has_trellis());
  const LayerOptions old =
      found(kronecker_options(), {"codebook", "trellis", "trellis_feedback", "share_inputs"});
  EXPECT_FALSE(old.has_trellis());
  EXPECT_EQ(old.effective_transform(), TransformKind::kronecker);
}

// A byte for each weight in the last block.
TEST_F(PackedNeeds, FollowOverridesOfAnyBlock) {
  QuantizeOptions options;
  options.layer = kronecker_options();
  options.overrides.add("layers\\.2\\.mlp\\.down_proj:bits=8");
  EXPECT_EQ(needs_of(written_with(options)).fixed,
            weights + libraries + 32 * 48 + 2 * 4 + 48 * 4 + 32 * 48 * 4 + transform_of_down);
}

}  // namespace
}  // namespace quip::device_memory_test
