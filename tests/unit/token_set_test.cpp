#include "quip/calib/token_set.hpp"

#include "support/store_fixture.hpp"
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <hdf5.h>

namespace quip::token_set_test {
namespace {

using test::message_of;
using ::testing::HasSubstr;

/// Writes one dataset with the HDF5 library alone, to a new file or one that is there.
void write_tokens(const std::filesystem::path& file, const char* name, hid_t type,
                  const std::vector<hsize_t>& shape, const void* elements, hid_t memory_type,
                  bool add = false) {
  const hid_t id = add ? H5Fopen(file.c_str(), H5F_ACC_RDWR, H5P_DEFAULT)
                       : H5Fcreate(file.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  const hid_t space = H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr);
  const hid_t dataset = H5Dcreate2(id, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  ASSERT_GE(dataset, 0);
  H5Dwrite(dataset, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, elements);
  H5Dclose(dataset);
  H5Sclose(space);
  ASSERT_GE(H5Fclose(id), 0);
}

class TokenSetTest : public testing::Test {
 protected:
  std::filesystem::path write(const std::vector<std::int32_t>& tokens,
                              const std::vector<hsize_t>& shape, hid_t type = H5T_STD_I32LE,
                              const char* name = "input_ids") {
    write_tokens(file_, name, type, shape, tokens.data(), H5T_NATIVE_INT32);
    return file_;
  }

  void add_mask(const std::vector<std::int32_t>& mask, const std::vector<hsize_t>& shape,
                hid_t type) const {
    write_tokens(file_, "attention_mask", type, shape, mask.data(), H5T_NATIVE_INT32, true);
  }

  [[nodiscard]] std::string opening_error() const {
    return message_of([&] { TokenSet set(file_); });
  }

  test::TemporaryFolder folder_;
  std::filesystem::path file_ = folder_.path() / "tokens.h5";
};

TEST_F(TokenSetTest, ReadsRows) {
  const TokenSet set(write({0, 1, 2, 3, 4, 5, 6, 7, 8}, {3, 3}));
  EXPECT_EQ(set.samples(), 3);
  EXPECT_EQ(set.length(), 3);
  EXPECT_EQ(set.read(1, 2, 9), (std::vector<std::int32_t>{3, 4, 5, 6, 7, 8}));
  EXPECT_EQ(set.read(0, 1, 9), (std::vector<std::int32_t>{0, 1, 2}));
  EXPECT_TRUE(set.read(3, 0, 9).empty());
}

TEST_F(TokenSetTest, ReadsBigEndianFilesToo) {
  const TokenSet set(write({1, 256, 70000, 3}, {2, 2}, H5T_STD_I32BE));
  EXPECT_EQ(set.read(0, 2, 70001), (std::vector<std::int32_t>{1, 256, 70000, 3}));
}

TEST_F(TokenSetTest, RefusesRowsThatAreNotThere) {
  const TokenSet set(write({0, 1, 2, 3}, {2, 2}));
  for (const auto& [first, count] : {std::pair{-1, 1}, {0, 3}, {2, 1}, {0, -1}}) {
    EXPECT_THROW((void)set.read(first, count, 9), Error) << first << " " << count;
  }
  EXPECT_THROW((void)set.digest(3), Error);
}

TEST_F(TokenSetTest, NamesTheTokenOutsideTheVocabulary) {
  const TokenSet set(write({0, 1, 2, 3, 9, 5}, {2, 3}));
  const std::string message = message_of([&] { (void)set.read(0, 2, 9); });
  EXPECT_NE(message.find("tokens.h5: sample 1, position 1: token 9"), std::string::npos) << message;
  EXPECT_EQ(set.read(0, 2, 10).size(), 6U);
}

TEST_F(TokenSetTest, NamesANegativeToken) {
  const TokenSet set(write({0, 1, 2, -4}, {2, 2}));
  EXPECT_EQ(set.read(0, 1, 9).size(), 2U);
  const std::string message = message_of([&] { (void)set.read(1, 1, 9); });
  EXPECT_NE(message.find("sample 1, position 1: token -4"), std::string::npos) << message;
}

TEST_F(TokenSetTest, RefusesOtherElementTypes) {
  for (const hid_t type : {H5T_STD_I64LE, H5T_STD_U32LE, H5T_STD_I16LE, H5T_IEEE_F32LE}) {
    write({0, 1, 2, 3}, {2, 2}, type);
    const std::string message = opening_error();
    EXPECT_NE(message.find("tokens.h5: dataset input_ids is not of type int32"), std::string::npos)
        << message;
  }
}

TEST_F(TokenSetTest, RefusesOtherShapes) {
  write({0, 1, 2, 3}, {4});
  EXPECT_NE(opening_error().find("1 dimensions; expected 2"), std::string::npos);
  write({0, 1, 2, 3}, {2, 2, 1});
  EXPECT_NE(opening_error().find("3 dimensions; expected 2"), std::string::npos);
}

TEST_F(TokenSetTest, RefusesSetsTooSmallToUse) {
  write({}, {0, 8});
  EXPECT_NE(opening_error().find("is empty"), std::string::npos);
  write({1, 2, 3}, {3, 1});
  EXPECT_NE(opening_error().find("sequences have length 1"), std::string::npos);
}

TEST_F(TokenSetTest, RefusesFilesWithoutTheDataset) {
  write({0, 1, 2, 3}, {2, 2}, H5T_STD_I32LE, "tokens");
  EXPECT_NE(opening_error().find("has no dataset input_ids"), std::string::npos);
}

TEST_F(TokenSetTest, RefusesWhatIsNoHdf5FileInOneLine) {
  const std::string missing = opening_error();
  EXPECT_NE(missing.find("tokens.h5"), std::string::npos) << missing;
  EXPECT_NE(missing.find("No such file or directory"), std::string::npos) << missing;
  std::ofstream(file_) << "no HDF5 at all";
  const std::string garbage = opening_error();
  EXPECT_NE(garbage.find("tokens.h5: not an HDF5 file"), std::string::npos) << garbage;
  EXPECT_EQ(garbage.find('\n'), std::string::npos) << garbage;
}

TEST_F(TokenSetTest, TellsHowToMakeASetOfAText) {
  const auto message = [&](const char* name) {
    const std::filesystem::path file = folder_.path() / name;
    std::ofstream(file) << "A text.";
    return message_of([&] { TokenSet set(file); });
  };
  const std::string command = "jobs/tokenize.py " + folder_.path().string();
  EXPECT_THAT(message("wiki.txt"), HasSubstr(command + "/wiki.txt --model MODEL --out wiki.h5"));
  for (const char* name : {"c4.jsonl", "c4.json"}) {
    EXPECT_THAT(message(name), HasSubstr(command + "/" + name + " --field text --model"));
  }
  for (const char* name : {"c4.parquet", "train.bin"}) {
    EXPECT_THAT(message(name), HasSubstr("jobs/tokenize.py makes token sets of .txt and .jsonl"));
  }
}

TEST_F(TokenSetTest, RefusesAMaskThatLeavesTokensOut) {
  write({1, 2, 3, 4, 5, 6}, {2, 3});
  add_mask({1, 1, 1, 1, 1, 0}, {2, 3}, H5T_STD_I64LE);
  EXPECT_THAT(opening_error(), HasSubstr("attention_mask leaves out tokens of sample 1"));
  write({1, 2, 3, 4, 5, 6}, {2, 3});
  add_mask({1, 1, 1, 1, 1, 1}, {3, 2}, H5T_STD_I8LE);
  EXPECT_THAT(opening_error(), HasSubstr("does not have the shape"));
}

TEST_F(TokenSetTest, IgnoresAMaskThatLeavesNothingOut) {
  write({1, 2, 3, 4}, {2, 2});
  add_mask({1, 1, 1, 1}, {2, 2}, H5T_STD_U8LE);
  EXPECT_EQ(TokenSet(file_).samples(), 2);
}

TEST_F(TokenSetTest, DigestIsOfTheContentOnly) {
  const std::string first = TokenSet(write({1, 2, 3, 4}, {2, 2})).digest(2);
  EXPECT_EQ(TokenSet(write({1, 2, 3, 4}, {2, 2}, H5T_STD_I32BE)).digest(2), first);
  EXPECT_EQ(TokenSet(write({1, 2, 3, 4, 5, 6}, {3, 2})).digest(2), first);
  EXPECT_NE(TokenSet(write({1, 2, 3, 5}, {2, 2})).digest(2), first);
  EXPECT_NE(TokenSet(write({1, 2, 3, 4}, {1, 4})).digest(1), first);
}

}  // namespace
}  // namespace quip::token_set_test
