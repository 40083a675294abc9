// What a packed model says when it is damaged, unfinished, or cannot be written.
#include <csignal>
#include <fstream>
#include <random>
#include <sys/resource.h>

#include "support/store_fixture.hpp"
#include <gtest/gtest.h>

#include "quip/store/packed_model.hpp"

namespace quip::packed_damage_test {
namespace {

namespace fs = std::filesystem;
using test::files_below;
using test::message_of;
using test::random_block;
using test::random_layer;

class PackedDamageTest : public testing::Test {
 protected:
  void write() { test::write_model(comm_, directory_, false); }

  [[nodiscard]] std::string opening_error() const {
    return message_of([&] { PackedModel model(directory_); });
  }
  /// What is wrong with the model; an error on opening counts as one finding.
  [[nodiscard]] std::vector<std::string> findings() const {
    try {
      return PackedModel(directory_).verify();
    } catch (const Error& error) {
      return {error.what()};
    }
  }

  SelfCollectives comm_;
  test::TemporaryFolder folder_;
  fs::path directory_ = folder_.path() / "model";
};

TEST_F(PackedDamageTest, RefusesARunThatDidNotFinish) {
  PackedWriter writer(comm_, directory_, {});
  EXPECT_NE(opening_error().find("did not finish"), std::string::npos);
  writer.write_block(0, random_block(0));
  EXPECT_NE(opening_error().find("did not finish"), std::string::npos);
}

TEST_F(PackedDamageTest, RefusesWhatIsNoPackedModel) {
  EXPECT_NE(opening_error().find("not a packed model"), std::string::npos);
  fs::create_directories(directory_);
  for (const char* text : {"", "{", "[]", "{}", R"({"format": "other"})", "\xff"}) {
    std::ofstream(directory_ / "manifest.json") << text;
    EXPECT_NE(opening_error().find("manifest.json"), std::string::npos) << text;
  }
}

TEST_F(PackedDamageTest, RefusesAManifestThatPointsOutside) {
  write();
  const std::string text = test::text_of(directory_ / "manifest.json");
  for (const char* file : {"/etc/passwd", "../other.h5", "blocks/../../x.h5"}) {
    nlohmann::json manifest = nlohmann::json::parse(text);
    manifest["blocks"][0]["file"] = file;
    std::ofstream(directory_ / "manifest.json") << manifest;
    EXPECT_NE(opening_error().find("outside its directory"), std::string::npos) << file;
  }
}

TEST_F(PackedDamageTest, RefusesAManifestThatWasEdited) {
  write();
  nlohmann::json manifest = nlohmann::json::parse(test::text_of(directory_ / "manifest.json"));
  manifest["options"]["bits"] = 4;
  std::ofstream(directory_ / "manifest.json") << manifest.dump(2) << "\n";
  EXPECT_EQ(opening_error(), (directory_ / "manifest.json").string() +
                                 ": was changed after it was written; quip quantize --repair "
                                 "makes it anew");
}

// One bit in the middle of a tensor; the tensors beside it can be used.
TEST_F(PackedDamageTest, RefusesADamagedTensorOnFirstUse) {
  write();
  test::MemorySource source;
  test::fill(source, false);
  const fs::path file = directory_ / "rest.h5";
  std::string text = test::text_of(file);
  const auto& bytes = source.bytes("model.norm.weight");
  const std::string needle(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const std::size_t place = text.find(needle);
  ASSERT_NE(place, std::string::npos);
  text[place + 29] = static_cast<char>(text[place + 29] ^ 0x10);
  std::ofstream(file, std::ios::binary) << text;
  const PackedModel model(directory_);
  std::array<std::byte, 4> out{};
  for (int attempt = 0; attempt < 2; ++attempt) {
    EXPECT_EQ(message_of([&] { model.read("model.norm.weight", 0, out); }),
              file.string() +
                  ": tensor model.norm.weight does not match its digest in the manifest; quip "
                  "quantize --repair mends it");
  }
  EXPECT_NO_THROW(model.read("lm_head.weight", 0, out));
}

TEST_F(PackedDamageTest, RefusesAnOutputThatIsNotAnEmptyDirectory) {
  fs::create_directories(directory_);
  std::ofstream(directory_ / "precious.txt") << "keep";
  const std::string full = message_of([&] { PackedWriter(comm_, directory_, {}); });
  EXPECT_NE(full.find(directory_.string() + ": the output directory is not empty"),
            std::string::npos)
      << full;
  EXPECT_EQ(test::text_of(directory_ / "precious.txt"), "keep");
  const fs::path file = directory_ / "precious.txt";
  EXPECT_NE(message_of([&] { PackedWriter(comm_, file, {}); }).find("is not a directory"),
            std::string::npos);
}

/// Acts as an ordinary user while it lives: permissions mean nothing to root.
class WithoutPrivileges {
 public:
  WithoutPrivileges() {
    if (::geteuid() == 0) changed_ = ::seteuid(65534) == 0;
  }
  ~WithoutPrivileges() { EXPECT_TRUE(!changed_ || ::seteuid(0) == 0); }

 private:
  bool changed_ = false;
};

TEST_F(PackedDamageTest, SaysWhyADirectoryCannotBeWritten) {
  fs::create_directories(directory_);
  fs::permissions(directory_, fs::perms::owner_read | fs::perms::owner_exec |
                                  fs::perms::others_read | fs::perms::others_exec);
  fs::permissions(folder_.path(), fs::perms::others_all, fs::perm_options::add);
  const WithoutPrivileges guard;
  for (const fs::path& out : {directory_, directory_ / "below"}) {
    const std::string message = message_of([&] { PackedWriter(comm_, out, {}); });
    EXPECT_NE(message.find(out.string()), std::string::npos) << message;
    EXPECT_NE(message.find("Permission denied"), std::string::npos) << message;
  }
}

/// Lets no file grow beyond a limit: the nearest thing to a full disk without a disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    rlimit limit = before_;
    limit.rlim_cur = bytes;
    ::setrlimit(RLIMIT_FSIZE, &limit);
    handler_ = std::signal(SIGXFSZ, SIG_IGN);
  }
  ~FileSizeLimit() {
    std::signal(SIGXFSZ, handler_);
    ::setrlimit(RLIMIT_FSIZE, &before_);
  }

 private:
  rlimit before_{};
  void (*handler_)(int) = nullptr;
};

TEST_F(PackedDamageTest, AWriteThatFailsLeavesNoFileBehind) {
  PackedWriter writer(comm_, directory_, {});
  writer.write_block(0, random_block(0));
  const auto before = files_below(directory_);
  const auto large = random_layer("large", 256, 1024, 4, GridKind::incoherent, true, 1);
  test::MemorySource source;
  source.add("wide", DType::f32, {1 << 16}, 1);
  {
    const FileSizeLimit limit(1 << 16);
    const std::string block = message_of([&] { writer.write_block(1, {large}); });
    EXPECT_NE(block.find("block_00001.h5"), std::string::npos) << block;
    EXPECT_NE(block.find("File too large"), std::string::npos) << block;
    const std::string rest = message_of([&] { writer.write_rest(source, {"wide"}); });
    EXPECT_NE(rest.find("rest.h5"), std::string::npos) << rest;
    EXPECT_NE(rest.find("File too large"), std::string::npos) << rest;
  }
  EXPECT_EQ(files_below(directory_), before);
  writer.write_block(1, {large});  // the writer itself is not harmed
  writer.write_rest(source, {"wide"});
  writer.finish({});
  EXPECT_TRUE(PackedModel(directory_).verify().empty());
}

TEST_F(PackedDamageTest, VerifyFindsEveryFlippedByte) {
  write();
  ASSERT_TRUE(findings().empty()) << findings()[0];
  std::mt19937 random(17);
  const auto files = files_below(directory_);
  ASSERT_EQ(files.size(), 7U);
  for (const std::string& file : files) {
    const std::string intact = test::text_of(directory_ / file);
    for (int i = 0; i < 150; ++i) {  // a thousand in all
      std::string damaged = intact;
      const std::size_t position = random() % intact.size();
      const auto flip = static_cast<char>(1 + random() % 255);
      damaged[position] = static_cast<char>(damaged[position] ^ flip);
      std::ofstream(directory_ / file, std::ios::binary) << damaged;
      const auto found = findings();
      EXPECT_FALSE(found.empty()) << file << " byte " << position << " xor " << int{flip};
    }
    std::ofstream(directory_ / file, std::ios::binary) << intact;
  }
  EXPECT_TRUE(findings().empty());
}

TEST_F(PackedDamageTest, VerifyFindsTruncatedAndMissingFiles) {
  write();
  for (const std::string& file : files_below(directory_)) {
    const std::string intact = test::text_of(directory_ / file);
    for (const std::size_t size : {intact.size() - 1, intact.size() / 2, std::size_t{0}}) {
      fs::resize_file(directory_ / file, size);
      const auto found = findings();
      ASSERT_FALSE(found.empty()) << file << " cut to " << size;
      EXPECT_NE(found[0].find(file), std::string::npos) << found[0];
      std::ofstream(directory_ / file, std::ios::binary) << intact;
    }
    fs::remove(directory_ / file);
    EXPECT_FALSE(findings().empty()) << file << " removed";
    std::ofstream(directory_ / file, std::ios::binary) << intact;
  }
  EXPECT_TRUE(findings().empty());
}

TEST_F(PackedDamageTest, NamesTheFileThatDoesNotMatch) {
  write();
  const fs::path file = directory_ / "blocks/block_00001.h5";
  std::string text = test::text_of(file);
  const std::vector<std::uint8_t> codes = random_block(1)[0].layer.codes;
  const std::string needle(codes.begin(), codes.end());
  const std::size_t place = text.find(needle);
  ASSERT_NE(place, std::string::npos);
  text[place + 5] = static_cast<char>(text[place + 5] ^ 4);
  std::ofstream(file, std::ios::binary) << text;
  const PackedModel model(directory_);
  for (int attempt = 0; attempt < 2; ++attempt) {  // a file that failed once is not taken for good
    const std::string message =
        message_of([&] { (void)model.read_layer("model.layers.1.mlp.up_proj"); });
    EXPECT_NE(message.find(file.string() + ": the file's bytes do not match"), std::string::npos)
        << message;
  }
  EXPECT_NO_THROW((void)model.read_layer("model.layers.0.mlp.up_proj"));
  EXPECT_EQ(model.verify().size(), 1U);
}

// A block of another run is whole in itself; only the manifest can tell.
TEST_F(PackedDamageTest, RefusesABlockOfAnotherModel) {
  write();
  const fs::path other = folder_.path() / "other";
  {
    auto layers = random_block(0);
    layers[0].layer.seed_u += 1;
    PackedWriter writer(comm_, other, {});
    writer.write_block(0, layers);
  }
  const fs::path file = "blocks/block_00000.h5";
  fs::copy_file(other / file, directory_ / file, fs::copy_options::overwrite_existing);
  const PackedModel model(directory_);
  const std::string message =
      message_of([&] { (void)model.read_layer("model.layers.0.self_attn.q_proj"); });
  EXPECT_NE(message.find("belongs to another model"), std::string::npos) << message;
}

}  // namespace
}  // namespace quip::packed_damage_test
