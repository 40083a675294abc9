#include "quip/store/packed_model.hpp"

#include <set>

#include "support/scalar_options.hpp"
#include "support/store_fixture.hpp"
#include <gtest/gtest.h>
#include <hdf5.h>

#include "quip/quant/options/options.hpp"

namespace quip::packed_model_test {
namespace {

namespace fs = std::filesystem;
using test::files_below;
using test::message_of;
using test::random_block;
using test::random_layer;

void expect_equal(const StoredLayer& read, const StoredLayer& written) {
  EXPECT_EQ(read.name, written.name);
  EXPECT_EQ(read.method, written.method);
  const auto same_attribute = [](const Attribute& attribute, auto a, auto b) {
    EXPECT_TRUE(a == b) << attribute.name;
  };
  visit_attributes(same_attribute, read.layer, written.layer);
  const auto same_part = [](const Part& part, const auto& a, const auto& b) {
    EXPECT_EQ(a, b) << part.name;
  };
  visit_parts(same_part, read.layer, written.layer);
  EXPECT_EQ(read.statistics.proxy_loss, written.statistics.proxy_loss);
  EXPECT_EQ(read.statistics.relative_proxy_loss, written.statistics.relative_proxy_loss);
  EXPECT_EQ(read.statistics.trace_ratio, written.statistics.trace_ratio);
  EXPECT_EQ(read.statistics.damping, written.statistics.damping);
  EXPECT_EQ(read.statistics.damping_tries, written.statistics.damping_tries);
  EXPECT_EQ(read.statistics.dead_channels, written.statistics.dead_channels);
  EXPECT_EQ(read.statistics.rho, written.statistics.rho);
}

class PackedModelTest : public testing::Test {
 protected:
  void write(bool large = false) { test::write_model(comm_, directory_, large); }

  SelfCollectives comm_;
  test::TemporaryFolder folder_;
  fs::path directory_ = folder_.path() / "model";
};

TEST_F(PackedModelTest, ReadsBackEveryLayer) {
  write();
  const PackedModel model(directory_);
  ASSERT_EQ(model.blocks().size(), 2U);
  for (index_t block = 0; block < 2; ++block) {
    for (const StoredLayer& written : random_block(block)) {
      EXPECT_TRUE(model.is_quantized(written.name));
      expect_equal(model.read_layer(written.name), written);
    }
  }
  EXPECT_FALSE(model.is_quantized("model.norm"));
  EXPECT_EQ(model.manifest().at("options").at("bits"), 3);
  EXPECT_NE(message_of([&] { (void)model.read_layer("model.norm"); }).find("model.norm"),
            std::string::npos);
}

TEST_F(PackedModelTest, LeavesTheFilesThatItPromisesAndNoOthers) {
  write();
  EXPECT_EQ(
      files_below(directory_),
      (std::set<std::string>{"blocks/block_00000.h5", "blocks/block_00001.h5", "manifest.json",
                             "model.h5", "report.json", "rest.h5", "states/states_00001.h5"}));
  index_t bytes = 0;
  for (const std::string& file : files_below(directory_)) {
    bytes += std::ssize(test::text_of(directory_ / file));
  }
  EXPECT_EQ(PackedModel(directory_).bytes_on_disk(), bytes);
}

TEST_F(PackedModelTest, ServesTheOtherTensorsAsTheyWere) {
  write(true);
  test::MemorySource source;
  test::fill(source, true);
  const PackedModel model(directory_);
  EXPECT_EQ(model.names(), source.names());
  for (const std::string& name : source.names()) {
    const TensorInfo& info = model.info(name);
    EXPECT_EQ(info.dtype, source.info(name).dtype);
    EXPECT_EQ(info.shape, source.info(name).shape);
    std::vector<std::byte> bytes(static_cast<std::size_t>(info.bytes()));
    model.read(name, 0, bytes);
    EXPECT_EQ(bytes, source.bytes(name)) << name;
  }
  std::vector<std::byte> part(100);
  model.read("model.large", 20'000'001, part);
  EXPECT_TRUE(
      std::equal(part.begin(), part.end(), source.bytes("model.large").begin() + 20'000'001));
  EXPECT_THROW(model.read("model.norm.weight", 61, part), Error);
  EXPECT_THROW(model.read("model.norm.weight", -1, part), Error);
  EXPECT_THROW((void)model.info("model.layers.0.mlp.up_proj.weight"), Error);
  EXPECT_TRUE(model.verify().empty());
}

// Through the HDF5 library alone, as any other program would see the model.
TEST_F(PackedModelTest, ModelFileShowsEverythingFromAnyWorkingDirectory) {
  write();
  const hid_t file = H5Fopen((directory_ / "model.h5").c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  const hid_t codes = H5Dopen2(file, "/layers/model.layers.1.self_attn.q_proj/codes", H5P_DEFAULT);
  ASSERT_GE(codes, 0);
  std::vector<std::uint8_t> bytes(24 * 15);  // 40 codes of 3 bits are 15 bytes
  ASSERT_EQ(H5Dget_storage_size(codes), bytes.size());
  H5Dread(codes, H5T_NATIVE_UINT8, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data());
  EXPECT_EQ(bytes, random_block(1)[0].layer.codes);
  const hid_t half = H5Dopen2(file, "/rest/lm_head.weight", H5P_DEFAULT);
  ASSERT_GE(half, 0);
  const hid_t type = H5Dget_type(half);
  EXPECT_EQ(H5Tget_class(type), H5T_FLOAT);
  EXPECT_EQ(H5Tget_size(type), 2U);
  EXPECT_EQ(H5Tget_ebias(type), 15U);
  H5Tclose(type);
  H5Dclose(half);
  H5Dclose(codes);
  H5Fclose(file);
}

TEST_F(PackedModelTest, IsAsSmallAsPromised) {
  for (const auto& [rows, cols] : {std::pair<index_t, index_t>{64, 128}, {1536, 2048}}) {
    for (const GridKind grid : {GridKind::minmax, GridKind::incoherent}) {
      for (const int bits : {2, 3, 4, 8}) {
        const bool rescale = grid == GridKind::incoherent;
        const fs::path directory = folder_.path() / fmt::format("{}-{}-{}", rows, bits, rescale);
        PackedWriter writer(comm_, directory, {});
        writer.write_block(
            0, {random_layer("model.layers.0.mlp.up_proj", rows, cols, bits, grid, rescale, 1)});
        const auto size = static_cast<index_t>(fs::file_size(directory / "blocks/block_00000.h5"));
        // Both grids have three datasets: codes, scale, and zero or rescale.
        EXPECT_LE(size, rows * cols * bits / 8 + 4 * (rows + cols) + 3 * 2048)
            << rows << " x " << cols << ", " << bits << " bits";
        EXPECT_GE(size, rows * cols * bits / 8);
      }
    }
  }
}

// 17 × 33 weights of 3 bits that are described and not made. A row of codes has ⌈99/8⌉ = 13 bytes.
TEST(StoredBytes, FollowFromTheOptions) {
  LayerOptions options = scalar_options();
  options.bits = 3;
  EXPECT_EQ(stored_bytes(described(options, 17, 33)), 17 * 13 + 4 + 33 * 4);  // one scale, D̃
  options.rescaling = false;
  EXPECT_EQ(stored_bytes(described(options, 17, 33)), 17 * 13 + 4);
  options.processing = Processing::baseline;  // scales and 3-bit zero points of 17 rows
  EXPECT_EQ(stored_bytes(described(options, 17, 33)), 17 * 13 + 17 * 4 + 7);
  options.group_size = 8;  // of 5 groups each, whose scales are halves
  EXPECT_EQ(stored_bytes(described(options, 17, 33)), 17 * 13 + 85 * 2 + 32);
  options.symmetric = true;
  EXPECT_EQ(stored_bytes(described(options, 17, 33)), 17 * 13 + 85 * 2);
  options.scale_type = ScaleType::fp32;
  EXPECT_EQ(stored_bytes(described(options, 17, 33)), 17 * 13 + 85 * 4);
}

// Asked of the HDF5 library alone.
TEST_F(PackedModelTest, DatasetsHaveTheBytesOfTheirParts) {
  write();
  for (const StoredLayer& stored : random_block(1)) {
    const hid_t file =
        H5Fopen((directory_ / "blocks/block_00001.h5").c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
    index_t bytes = 0;
    for (const char* name : {"codes", "scale", "zero", "rescale", "suh", "svh"}) {
      const std::string path = stored.name + "/" + name;
      if (H5Lexists(file, path.c_str(), H5P_DEFAULT) <= 0) continue;
      const hid_t dataset = H5Dopen2(file, path.c_str(), H5P_DEFAULT);
      bytes += static_cast<index_t>(H5Dget_storage_size(dataset));
      H5Dclose(dataset);
    }
    H5Fclose(file);
    EXPECT_EQ(stored_bytes(stored.layer), bytes) << stored.name;
  }
}

TEST_F(PackedModelTest, DigestFollowsTheLayersAndTheirOrder) {
  const auto digest_with = [&](const std::string& name, const std::vector<StoredLayer>& layers) {
    PackedWriter writer(comm_, folder_.path() / name, {});
    writer.write_block(0, layers);
    writer.finish({});
    return PackedModel(folder_.path() / name).digest();
  };
  std::vector<StoredLayer> layers = random_block(0);
  const std::string digest = digest_with("a", layers);
  EXPECT_EQ(digest_with("b", layers), digest);
  layers[0].statistics.proxy_loss = 99;  // says nothing about the weights
  EXPECT_EQ(digest_with("c", layers), digest);
  std::swap(layers[0], layers[1]);
  EXPECT_NE(digest_with("d", layers), digest);
  std::swap(layers[0], layers[1]);
  layers[1].layer.zero[3] ^= 1;
  EXPECT_NE(digest_with("e", layers), digest);
}

TEST_F(PackedModelTest, TheSameModelIsTheSameFiles) {
  write();
  test::write_model(comm_, folder_.path() / "again", false);
  for (const std::string& file : files_below(directory_)) {
    EXPECT_EQ(test::text_of(directory_ / file), test::text_of(folder_.path() / "again" / file))
        << file;
  }
}

TEST_F(PackedModelTest, BlocksMayComeInAnyOrderButOnce) {
  PackedWriter writer(comm_, directory_, {});
  writer.write_block(1, random_block(1));
  writer.write_block(0, random_block(0));
  EXPECT_THROW(writer.write_block(1, random_block(1)), Error);
  writer.finish({});
  const PackedModel model(directory_);
  EXPECT_EQ(model.blocks()[0].block, 0);
  EXPECT_EQ(model.blocks()[1].block, 1);
  EXPECT_TRUE(model.verify().empty());
}

}  // namespace
}  // namespace quip::packed_model_test
