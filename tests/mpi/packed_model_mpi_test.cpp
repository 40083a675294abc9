#include "support/store_fixture.hpp"
#include <gtest/gtest.h>

#include "quip/comm/mpi_collectives.hpp"
#include "quip/store/packed_model.hpp"

namespace quip::packed_model_mpi_test {
namespace {

namespace fs = std::filesystem;
using test::files_below;
using test::message_of;
using test::random_block;
using test::text_of;

/// A folder that rank 0 makes for all.
class PackedModelMpiTest : public testing::Test {
 protected:
  PackedModelMpiTest() {
    if (comm_.rank() == 0) folder_ = std::make_unique<test::TemporaryFolder>();
    std::string path = folder_ ? folder_->path().string() : "";
    comm_.broadcast(path, 0);
    root_ = path;
  }
  ~PackedModelMpiTest() override { comm_.barrier(); }  // nobody reads what rank 0 removes

  /// One message, the same on every rank, or the test fails.
  void expect_same_everywhere(const std::string& message) {
    std::string first = message;
    comm_.broadcast(first, 0);
    EXPECT_EQ(message, first);
  }

  MpiCollectives comm_;
  std::unique_ptr<test::TemporaryFolder> folder_;
  fs::path root_;
};

// The reference is the model that a single process writes.
TEST_F(PackedModelMpiTest, WritesTheSameFilesAsOneRank) {
  test::write_model(comm_, root_ / "together", true);
  if (comm_.rank() == 0) {
    SelfCollectives self;
    test::write_model(self, root_ / "alone", true);
    EXPECT_EQ(files_below(root_ / "together"), files_below(root_ / "alone"));
    for (const std::string& file : files_below(root_ / "alone")) {
      EXPECT_TRUE(text_of(root_ / "together" / file) == text_of(root_ / "alone" / file)) << file;
    }
  }
  comm_.barrier();
}

TEST_F(PackedModelMpiTest, EveryRankReadsItBack) {
  test::write_model(comm_, root_ / "model", true);
  const PackedModel model(root_ / "model");
  EXPECT_TRUE(model.verify().empty());
  for (index_t block = 0; block < 2; ++block) {
    for (const StoredLayer& written : random_block(block)) {
      EXPECT_EQ(digest_of(model.read_layer(written.name).layer), digest_of(written.layer));
    }
  }
  test::MemorySource source;
  test::fill(source, true);
  for (const std::string& name : source.names()) {
    std::vector<std::byte> bytes(static_cast<std::size_t>(model.info(name).bytes()));
    model.read(name, 0, bytes);
    EXPECT_TRUE(bytes == source.bytes(name)) << name;
  }
}

TEST_F(PackedModelMpiTest, AnErrorOnOneRankIsOneErrorOnAll) {
  PackedWriter writer(comm_, root_ / "model", {});
  std::vector<StoredLayer> layers = random_block(1);
  layers[0].layer.codes.pop_back();  // the writer of block 1, whoever it is, must notice
  const std::string message = message_of([&] { writer.write_block(1, layers); });
  EXPECT_NE(message.find("self_attn.q_proj"), std::string::npos) << message;
  expect_same_everywhere(message);
}

/// Fails on one rank only, as a file system does.
class BrokenSource final : public TensorSource {
 public:
  BrokenSource(const TensorSource& source, bool broken) : source_(source), broken_(broken) {}
  [[nodiscard]] std::vector<std::string> names() const override { return source_.names(); }
  [[nodiscard]] bool contains(const std::string& name) const override {
    return source_.contains(name);
  }
  [[nodiscard]] const TensorInfo& info(const std::string& name) const override {
    return source_.info(name);
  }
  void read(const std::string& name, index_t offset, std::span<std::byte> out) const override {
    if (broken_) fail("tensor {} cannot be read", name);
    source_.read(name, offset, out);
  }
  [[nodiscard]] std::string describe() const override { return source_.describe(); }

 private:
  const TensorSource& source_;
  bool broken_;
};

TEST_F(PackedModelMpiTest, AFailedRestLeavesNoFile) {
  PackedWriter writer(comm_, root_ / "model", {});
  const auto before = files_below(root_ / "model");
  test::MemorySource source;
  test::fill(source, true);
  const BrokenSource broken(source, comm_.rank() == comm_.size() - 1);
  const std::string message = message_of([&] { writer.write_rest(broken, source.names()); });
  EXPECT_NE(message.find("cannot be read"), std::string::npos) << message;
  expect_same_everywhere(message);
  comm_.barrier();
  EXPECT_EQ(files_below(root_ / "model"), before);
  comm_.barrier();  // before rank 0's writer gives its lock back
}

TEST_F(PackedModelMpiTest, RefusesANonEmptyDirectoryOnAllRanks) {
  test::write_model(comm_, root_ / "model", false);
  const std::string message = message_of([&] { PackedWriter(comm_, root_ / "model", {}); });
  EXPECT_NE(message.find("is not empty"), std::string::npos) << message;
  expect_same_everywhere(message);
}

}  // namespace
}  // namespace quip::packed_model_mpi_test
