#include <filesystem>
#include <string>
#include <vector>

#include "support/safetensors_files.hpp"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quip/io/safetensors.hpp"

namespace quip::test::checkpoint_test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class Checkpoint : public FilesTest {
 protected:
  /// The message with which opening `directory_` under this index fails.
  std::string index_rejection(const std::string& index) const {
    (void)write("model.safetensors.index.json", index);
    return message_of([&] { (void)open_checkpoint(directory_); });
  }
};

TEST_F(Checkpoint, OfOneFile) {
  (void)write("model.safetensors", one_tensor("w", {4}));
  EXPECT_THAT(open_checkpoint(directory_)->names(), ElementsAre("w"));
}

TEST_F(Checkpoint, OfShardsReadsThroughSymlinks) {
  std::filesystem::create_directory(directory_ / "blobs");
  (void)write("blobs/0123abcd", one_tensor("v", {5, 6}));
  std::filesystem::create_symlink("blobs/0123abcd", directory_ / "2.safetensors");
  (void)write("1.safetensors", one_tensor("w", {4}));
  (void)write("model.safetensors.index.json",
              R"({"metadata":{},"weight_map":{"w":"1.safetensors","v":"2.safetensors"}})");
  const auto source = open_checkpoint(directory_);
  EXPECT_THAT(source->names(), ElementsAre("v", "w"));
  EXPECT_EQ(source->describe(), directory_.string());
  std::vector<float> one(1);
  read_floats(*source, "v", 1, one);
  EXPECT_EQ(one[0], 6.0F);
}

TEST_F(Checkpoint, ADirectoryWithoutOne) {
  EXPECT_THAT(message_of([&] { (void)open_checkpoint(directory_); }),
              AllOf(HasSubstr(directory_.string()), HasSubstr("model.safetensors.index.json")));
}

TEST_F(Checkpoint, AnIndexThatIsNoWeightMap) {
  EXPECT_THAT(index_rejection("{"), AllOf(HasSubstr("index.json"), HasSubstr("not valid JSON")));
  for (const char* text : {"[]", "{}", R"({"weight_map":[]})", R"({"weight_map":{}})"}) {
    EXPECT_THAT(index_rejection(text), HasSubstr("\"weight_map\" is missing")) << text;
  }
  EXPECT_THAT(index_rejection(R"({"weight_map":{"w":3}})"), HasSubstr("tensor w"));
}

TEST_F(Checkpoint, AnIndexCannotLeadOutOfItsDirectory) {
  for (const char* name :
       {"", ".", "..", "../x.safetensors", "/etc/passwd", "sub/x", R"(..\\x)", R"(x\u0000y)"}) {
    EXPECT_THAT(index_rejection(fmt::format(R"({{"weight_map":{{"w":"{}"}}}})", name)),
                AllOf(HasSubstr("tensor w"), HasSubstr("not the name of a file")))
        << name;
  }
}

TEST_F(Checkpoint, ShardsMustBeThereAndHoldWhatTheIndexPromises) {
  EXPECT_THAT(index_rejection(R"({"weight_map":{"w":"1.safetensors"}})"),
              HasSubstr("shard 1.safetensors is missing"));
  (void)write("1.safetensors", one_tensor("w", {4}));
  EXPECT_THAT(index_rejection(R"({"weight_map":{"v":"1.safetensors"}})"),
              AllOf(HasSubstr("1.safetensors: tensor v"), HasSubstr("index.json says so")));
  (void)write("2.safetensors", one_tensor("v", {4}));
  EXPECT_THAT(index_rejection(R"({"weight_map":{"w":"1.safetensors","x":"2.safetensors"}})"),
              HasSubstr("2.safetensors: tensor x"));
}

TEST_F(Checkpoint, AShardNameThatNoFileCanHave) {
  const std::string name(300, 'x');
  EXPECT_THAT(index_rejection(R"({"weight_map":{"w":")" + name + "\"}}"), HasSubstr("is missing"));
}

TEST_F(Checkpoint, AnIndexThatIsADirectory) {
  std::filesystem::create_directory(directory_ / "model.safetensors.index.json");
  EXPECT_THAT(message_of([&] { (void)open_checkpoint(directory_); }),
              AllOf(HasSubstr("index.json"), HasSubstr("not a regular file")));
}

TEST_F(Checkpoint, ATensorInTwoShardsIsRefused) {
  (void)write("1.safetensors", one_tensor("w", {4}));
  (void)write("2.safetensors", one_tensor("w", {5}));
  EXPECT_THAT(index_rejection(R"({"weight_map":{"w":"1.safetensors","v":"2.safetensors"}})"),
              AllOf(HasSubstr("tensor w"), HasSubstr("1.safetensors"), HasSubstr("2.safetensors")));
}

TEST_F(Checkpoint, ATruncatedShardIsNamed) {
  const std::string whole = one_tensor("w", {4, 5});
  (void)write("1.safetensors", whole.substr(0, whole.size() - 1));
  EXPECT_THAT(index_rejection(R"({"weight_map":{"w":"1.safetensors"}})"),
              AllOf(HasSubstr("1.safetensors: truncated"), HasSubstr("1 bytes are missing")));
}

}  // namespace
}  // namespace quip::test::checkpoint_test
