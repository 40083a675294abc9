// Packed models whose files are sound but say what no run would have written.
#include <fstream>

#include "store/manifest.hpp"
#include "support/store_fixture.hpp"
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <hdf5.h>

#include "quip/core/digest.hpp"
#include "quip/store/packed_model.hpp"

namespace quip::packed_hostile_test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::message_of;
using testing::AllOf;
using testing::HasSubstr;

constexpr const char* block_name = "blocks/block_00000.h5";
constexpr const char* layer_name = "model.layers.0.self_attn.q_proj";

class PackedHostileTest : public testing::Test {
 protected:
  void SetUp() override {
    test::write_model(comm_, directory_, false);
    original_ = manifest();
  }

  [[nodiscard]] json manifest() const {
    return json::parse(test::text_of(directory_ / "manifest.json"));
  }
  /// With its right digest: whoever writes such a manifest can do that.
  void replace_manifest(const json& manifest) const { write_manifest(directory_, manifest); }
  /// The error on opening after `pointer` of the manifest got this value.
  [[nodiscard]] std::string rejection(const char* pointer, const char* value) const {
    json changed = original_;
    changed[json::json_pointer(pointer)] = json::parse(value);
    replace_manifest(changed);
    return message_of([&] { PackedModel model(directory_); });
  }
  /// Makes the block's file legitimate: its digest goes into the manifest.
  void accept_block() const {
    const std::string text = test::text_of(directory_ / block_name);
    json changed = manifest();
    changed["blocks"][0]["file_digest"] = digest_of(std::as_bytes(std::span(text)));
    replace_manifest(changed);
  }
  [[nodiscard]] std::string reading_error() const {
    return message_of([&] { (void)PackedModel(directory_).read_layer(layer_name); });
  }

  SelfCollectives comm_;
  test::TemporaryFolder folder_;
  fs::path directory_ = folder_.path() / "model";
  json original_;
};

TEST_F(PackedHostileTest, ManifestsWithNumbersThatWouldBeConverted) {
  const std::string rest = "/rest/model.norm.weight";
  for (const char* value : {"-1", "1.5", "1e300", "18446744073709551615", "\"1\"", "null"}) {
    for (const std::string& pointer :
         {std::string("/blocks/0/block"), std::string("/blocks/0/shapes/0/1"), rest + "/shape/0",
          rest + "/offset"}) {
      EXPECT_THAT(rejection(pointer.c_str(), value),
                  AllOf(HasSubstr("manifest.json"), HasSubstr("not a natural number")))
          << pointer << " " << value;
    }
  }
  for (const char* shape : {"[]", "[4]", "[4, 4, 4]", "7", "{}"}) {
    EXPECT_THAT(rejection("/blocks/0/shapes/0", shape), HasSubstr("not the shape of a layer"));
  }
  EXPECT_THAT(rejection((rest + "/offset").c_str(), "9223372036854775800"),
              HasSubstr("tensor model.norm.weight lies beyond any file"));
  EXPECT_THAT(rejection((rest + "/shape").c_str(), "[4294967296, 4294967296]"),
              HasSubstr("tensor model.norm.weight has an impossible shape"));
}

TEST_F(PackedHostileTest, HiddenStatesThatNoFileCanHold) {
  const auto states = [&](index_t samples, index_t length, index_t width) {
    const json entry = {{"blocks", 1},        {"file", "states/states_00001.h5"},
                        {"samples", samples}, {"length", length},
                        {"width", width},     {"offset", 0},
                        {"digest", ""},       {"frame", ""}};
    return rejection("/states", json::array({entry}).dump().c_str());
  };
  constexpr index_t most = index_t{1} << 40;
  EXPECT_THAT(states(1, most, most), HasSubstr("hidden states of 1 × 1099511627776"));
  EXPECT_THAT(states(most, 1024, 4096), HasSubstr("are impossible"));
  EXPECT_THAT(states(most, 1, 0), HasSubstr("are impossible"));
  EXPECT_EQ(states(2, 3, 4), "no error");
}

TEST_F(PackedHostileTest, ManifestsThatAreNoObjectOrNestDeeply) {
  for (const std::string text : {"3", "[]", "\"quip-packed\""}) {
    std::ofstream(directory_ / "manifest.json") << text;
    EXPECT_THAT(message_of([&] { PackedModel model(directory_); }), HasSubstr("no packed model"));
  }
  const std::string deep = std::string(200'000, '[') + std::string(200'000, ']');
  std::ofstream(directory_ / "manifest.json")
      << R"({"format": "quip-packed", "x": )" << deep << "}";
  EXPECT_THAT(message_of([&] { PackedModel model(directory_); }), HasSubstr("nests more than"));
}

// With digests that match what they say.
TEST_F(PackedHostileTest, TrellisesThatNoEncoderWrites) {
  const auto refusal = [](const std::function<void(QuantizedLinear&)>& change) {
    StoredLayer stored = test::random_trellis_layer("down_proj", 100, 130, 2, 1);
    change(stored.layer);
    return message_of([&] { validate(stored.layer, stored.name); });
  };
  EXPECT_EQ(refusal([](auto&) {}), "no error");
  const auto expect = [&](const char* what, const std::function<void(QuantizedLinear&)>& change) {
    EXPECT_EQ(refusal(change), fmt::format("layer down_proj: {}; the packed model is damaged or of "
                                           "another version",
                                           what));
  };
  expect("bits must be 2, 3, 4 or 8, or with a trellis 1 to 8", [](auto& l) { l.bits = 9; });
  expect("bits must be 2, 3, 4 or 8, or with a trellis 1 to 8", [](auto& l) { l.bits = 0; });
  expect("a trellis has multiples of 128 rows and cols", [](auto& l) { l.cols = 130; });
  expect("padding must leave rows and cols", [](auto& l) { l.row_padding = 128; });
  expect("padding must leave rows and cols", [](auto& l) { l.col_padding = -1; });
  expect("codes has the wrong size", [](auto& l) { l.bits = 3; });
  expect("suh has the wrong size", [](auto& l) { l.suh.pop_back(); });
  expect("svh has the wrong size", [](auto& l) { l.svh.resize(256); });
}

TEST_F(PackedHostileTest, AFileNameWithAZeroByteIsOutside) {
  EXPECT_THAT(rejection("/blocks/0/file", R"("..\u0000/block.h5")"),
              HasSubstr("outside its directory"));
}

// A manifest may promise exabytes; neither memory nor time may follow.
TEST_F(PackedHostileTest, TensorsThatTheFileCannotHold) {
  json changed = manifest();
  changed["rest"]["model.norm.weight"]["shape"] = {index_t{1} << 60};
  replace_manifest(changed);
  const PackedModel model(directory_);
  EXPECT_THAT(model.verify(),
              testing::Contains(HasSubstr("tensor model.norm.weight lies outside the file")));
  std::array<std::byte, 8> out{};
  EXPECT_THAT(message_of([&] { model.read("model.norm.weight", 0, out); }), HasSubstr("rest.h5"));
}

TEST_F(PackedHostileTest, RestOfAnotherModelIsRefusedOnFirstUse) {
  test::MemorySource source;
  test::fill(source, false);
  source.add("model.more", DType::f32, {1000}, 1);  // everything fits into the larger file
  const fs::path other = folder_.path() / "other";
  PackedWriter writer(comm_, other, {});
  writer.write_rest(source, source.names());
  fs::copy_file(other / "rest.h5", directory_ / "rest.h5", fs::copy_options::overwrite_existing);
  const PackedModel model(directory_);
  std::array<std::byte, 8> out{};
  EXPECT_THAT(message_of([&] { model.read("model.norm.weight", 0, out); }),
              AllOf(HasSubstr("rest.h5"), HasSubstr("belongs to another model")));
}

// HDF5 1.10 crashes on some damaged files: it may only see those whose digest is right.
TEST_F(PackedHostileTest, DamageIsFoundBeforeHdf5LooksAtAFile) {
  const std::string intact = test::text_of(directory_ / block_name);
  for (const std::size_t position : {std::size_t{0}, std::size_t{60}, intact.size() - 1}) {
    std::string damaged = intact;
    damaged[position] = static_cast<char>(damaged[position] ^ 1);
    std::ofstream(directory_ / block_name, std::ios::binary) << damaged;
    EXPECT_THAT(reading_error(),
                AllOf(HasSubstr(block_name), HasSubstr("do not match its digest in the manifest")));
  }
  // Under a right digest the same bytes reach HDF5, which says something else.
  std::ofstream(directory_ / block_name, std::ios::binary) << "no HDF5 file at all";
  accept_block();
  EXPECT_THAT(reading_error(), AllOf(HasSubstr(block_name), HasSubstr("H5Fopen failed")));
}

/// Puts another dataset in the place of a layer's codes: same elements, same digest.
void restore_codes(const fs::path& file, hid_t creation) {
  const std::string place = std::string(layer_name) + "/codes";
  const auto codes = test::random_block(0)[0].layer.codes;
  const hid_t target = H5Fopen(file.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  hid_t dataset = H5Dopen2(target, place.c_str(), H5P_DEFAULT);
  const hid_t space = H5Dget_space(dataset);
  H5Dclose(dataset);
  H5Ldelete(target, place.c_str(), H5P_DEFAULT);
  dataset =
      H5Dcreate2(target, place.c_str(), H5T_STD_U8LE, space, H5P_DEFAULT, creation, H5P_DEFAULT);
  ASSERT_GE(dataset, 0);
  ASSERT_GE(H5Dwrite(dataset, H5T_NATIVE_UINT8, H5S_ALL, H5S_ALL, H5P_DEFAULT, codes.data()), 0);
  H5Dclose(dataset);
  H5Sclose(space);
  H5Fclose(target);
}

TEST_F(PackedHostileTest, CodesMustLieInTheFileInOnePiece) {
  const fs::path file = directory_ / block_name;
  const std::array<hsize_t, 2> chunk = {4, 8};
  const hid_t compressed = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_chunk(compressed, 2, chunk.data());
  H5Pset_deflate(compressed, 9);
  const hid_t external = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_external(external, (folder_.path() / "elsewhere").c_str(), 0, H5F_UNLIMITED);
  const std::string intact = test::text_of(file);
  for (const hid_t creation : {compressed, external}) {
    std::ofstream(file, std::ios::binary) << intact;
    restore_codes(file, creation);
    accept_block();
    EXPECT_THAT(reading_error(), AllOf(HasSubstr("dataset codes"), HasSubstr("in one piece")));
    H5Pclose(creation);
  }
}

}  // namespace
}  // namespace quip::packed_hostile_test
