#include "quip/io/safetensors.hpp"

#include <algorithm>
#include <fcntl.h>
#include <filesystem>
#include <limits>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#include "support/safetensors_files.hpp"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quip::test::safetensors_test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class Safetensors : public FilesTest {
 protected:
  /// The message with which opening a file of these bytes fails.
  std::string rejection(const std::string& bytes) const {
    const auto file = write("bad.safetensors", bytes);
    return message_of([&] { (void)open_safetensors(file); });
  }
  std::string header_rejection(const std::string& header, const std::string& data) const {
    return rejection(file_of(header, data));
  }
};

TEST_F(Safetensors, ReadsTensorsOfEveryDTypeByRange) {
  // 1, −2 as F16; 1, −2 as BF16; 0.5, 3 as F32.
  const std::string data = std::string("\x00\x3c\x00\xc0", 4) + std::string("\x80\x3f\x00\xc0", 4) +
                           data_of({0.5F, 3.0F});
  const auto source = open_safetensors(
      write("a.safetensors", file_of(R"({"__metadata__":{"format":"pt"},)"
                                     R"("h":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},)"
                                     R"("b":{"dtype":"BF16","shape":[2,1],"data_offsets":[4,8]},)"
                                     R"("f":{"dtype":"F32","shape":[1,2],"data_offsets":[8,16]}})",
                                     data)));
  EXPECT_THAT(source->names(), ElementsAre("b", "f", "h"));
  EXPECT_TRUE(source->contains("f"));
  EXPECT_FALSE(source->contains("__metadata__"));
  EXPECT_EQ(source->info("b").dtype, DType::bf16);
  EXPECT_THAT(source->info("b").shape, ElementsAre(2, 1));
  std::vector<float> two(2);
  for (const char* name : {"h", "b"}) {
    read_floats(*source, name, 0, two);
    EXPECT_THAT(two, ElementsAre(1.0F, -2.0F)) << name;
  }
  std::vector<float> last(1);
  read_floats(*source, "f", 1, last);
  EXPECT_EQ(last[0], 3.0F);
}

TEST_F(Safetensors, ReadsManyChunksAcrossReleasedPages) {
  // Three chunks of 2¹⁹ elements and a rest; each value tells its index.
  std::vector<float> values((3U << 19) + 17);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  const auto source = open_safetensors(write("a.safetensors", one_tensor("w", values)));
  std::vector<float> out(values.size());
  for (int pass = 0; pass < 2; ++pass) {  // the second maps released pages again
    std::fill(out.begin(), out.end(), -1.0F);
    read_floats(*source, "w", 0, out);
    ASSERT_EQ(out, values);
  }
  std::vector<float> tail(18);
  read_floats(*source, "w", (3 << 19) - 1, tail);
  EXPECT_EQ(tail[0], static_cast<float>((3 << 19) - 1));
}

TEST_F(Safetensors, EmptyTensorsAndScalarsAreFine) {
  const auto source = open_safetensors(write(
      "a.safetensors", file_of(R"({"empty":{"dtype":"F32","shape":[0,4],"data_offsets":[0,0]},)"
                               R"("scalar":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})",
                               data_of({7.0F}))));
  EXPECT_EQ(source->info("empty").elements(), 0);
  std::vector<float> one(1);
  read_floats(*source, "scalar", 0, one);
  EXPECT_EQ(one[0], 7.0F);
}

TEST_F(Safetensors, TensorsOfOtherTypesAreThereButNotComputedWith) {
  const auto source = open_safetensors(
      write("a.safetensors", file_of(R"({"ids":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},)"
                                     R"("new":{"dtype":"F4","shape":[2],"data_offsets":[8,9]},)"
                                     R"("w":{"dtype":"F32","shape":[1],"data_offsets":[9,13]}})",
                                     "12345678x" + std::string(4, '\0'))));
  EXPECT_THAT(source->names(), ElementsAre("ids", "new", "w"));
  EXPECT_EQ(source->info("ids").dtype, DType::i64);
  EXPECT_EQ(source->info("new").bytes(), 1);
  std::byte last{};
  source->read("new", 0, std::span(&last, 1));
  EXPECT_EQ(last, std::byte{'x'});
  std::vector<float> one(1);
  const auto refusal = AllOf(HasSubstr("tensor ids"), HasSubstr("dtype I64; quip computes with"));
  EXPECT_THAT(message_of([&] { read_floats(*source, "ids", 0, one); }), refusal);
  EXPECT_THAT(message_of([&] { require_shape(*source, "ids", {1}); }), refusal);
  EXPECT_THAT(message_of([&] { (void)source->info("x"); }),
              AllOf(HasSubstr("tensor x"), HasSubstr("a.safetensors")));
}

TEST_F(Safetensors, ReadingBeyondATensorIsRefused) {
  const auto source = open_safetensors(write("a.safetensors", one_tensor("w", {1, 2})));
  std::vector<float> two(2);
  for (const index_t first : {index_t{1}, index_t{-1}}) {
    EXPECT_THAT(message_of([&] { read_floats(*source, "w", first, two); }), HasSubstr("tensor w"));
  }
}

TEST_F(Safetensors, NonFiniteWeightsNameTensorAndIndex) {
  std::vector<float> values(600000, 1.0F);
  values[599999] = std::numeric_limits<float>::quiet_NaN();
  const auto source = open_safetensors(write("a.safetensors", one_tensor("w", values)));
  std::vector<float> out(400000);
  EXPECT_THAT(message_of([&] { read_floats(*source, "w", 200000, out); }),
              AllOf(HasSubstr("tensor w"), HasSubstr("element 599999"), HasSubstr("nan")));
  read_floats(*source, "w", 0, out);  // the damage lies outside
}

TEST_F(Safetensors, RequireShapeNamesTensorAndBothShapes) {
  const auto source = open_safetensors(write("a.safetensors", one_tensor("w", {1, 2})));
  require_shape(*source, "w", {2});
  EXPECT_THAT(message_of([&] {
                require_shape(*source, "w", {2, 3});
              }),
              AllOf(HasSubstr("tensor w"), HasSubstr("[2]"), HasSubstr("[2, 3]")));
  EXPECT_THAT(message_of([&] { require_shape(*source, "v", {2}); }), HasSubstr("tensor v"));
}

// --- files that are not what they claim ---

TEST_F(Safetensors, TooShortForALength) {
  EXPECT_THAT(rejection(""), AllOf(HasSubstr("bad.safetensors"), HasSubstr("0 bytes")));
  EXPECT_THAT(rejection("1234567"), HasSubstr("7 bytes"));
}

TEST_F(Safetensors, HeaderLengthBeyondTheFile) {
  EXPECT_THAT(rejection(std::string(8, '\xff') + "{}"),
              HasSubstr("claims 18446744073709551615 bytes, the file has 2 left"));
  EXPECT_THAT(rejection(std::string("\x03\0\0\0\0\0\0\0", 8) + "{}"), HasSubstr("claims 3 bytes"));
}

// Parsed, so much JSON would take gigabytes. The file is sparse.
TEST_F(Safetensors, HeaderLongerThanTheFormatAllows) {
  const auto file = directory_ / "long.safetensors";
  (void)write("long.safetensors", std::string("\x01\xe1\xf5\x05\0\0\0\0", 8));  // 100000001
  std::filesystem::resize_file(file, 200'000'000);
  EXPECT_THAT(message_of([&] { (void)open_safetensors(file); }),
              AllOf(HasSubstr("claims 100000001 bytes"), HasSubstr("100000000")));
}

TEST_F(Safetensors, ValuesNestedWithoutEnd) {
  const std::string deep = std::string(200'000, '[') + std::string(200'000, ']');
  EXPECT_THAT(header_rejection(R"({"w":{"shape":)" + deep + "}}", ""), HasSubstr("nests more"));
}

TEST_F(Safetensors, HeaderThatIsNoJson) {
  EXPECT_THAT(header_rejection(R"({"w":)", ""), HasSubstr("not valid JSON"));
  EXPECT_THAT(header_rejection("", ""), HasSubstr("not valid JSON"));
  EXPECT_THAT(header_rejection("{\"\xff\":1}", ""), HasSubstr("not valid JSON"));
  EXPECT_THAT(header_rejection("[1]", ""), HasSubstr("not a JSON object"));
  EXPECT_THAT(header_rejection(R"({"w":5})", ""), HasSubstr("tensor w: its header entry"));
}

TEST_F(Safetensors, BadEntriesNameTheTensorAndTheFault) {
  struct Case {
    std::string entry;
    std::string fault;
  };
  const std::vector<Case> cases = {
      {R"("shape":[1],"data_offsets":[0,4])", "\"dtype\" is missing"},
      {R"("dtype":7,"shape":[1],"data_offsets":[0,4])", "\"dtype\" is not a string"},
      {R"("dtype":"F32","data_offsets":[0,4])", "\"shape\" is missing"},
      {R"("dtype":"F32","shape":4,"data_offsets":[0,4])", "\"shape\" is not a list"},
      {R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])", "\"shape\" holds -1"},
      {R"("dtype":"F32","shape":[1.0],"data_offsets":[0,4])", "\"shape\" holds 1.0"},
      {R"("dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4])", "\"shape\" holds"},
      {R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4])", "overflows"},
      // No elements, yet the other sizes alone multiply to 2¹²⁴.
      {R"("dtype":"F32","shape":[0,4611686018427387904,4611686018427387904],"data_offsets":[0,0])",
       "overflows 64 bits"},
      {R"("dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,4])", "span 4 bytes"},
      {R"("dtype":"F32","shape":[1])", "\"data_offsets\" is missing"},
      {R"("dtype":"F32","shape":[1],"data_offsets":[0])", "not two numbers"},
      {R"("dtype":"F32","shape":[1],"data_offsets":[0,2,4])", "not two numbers"},
      {R"("dtype":"F32","shape":[1],"data_offsets":["0","4"])", "\"data_offsets\" holds \"0\""},
      {R"("dtype":"F32","shape":[1],"data_offsets":[-4,0])", "\"data_offsets\" holds -4"},
      {R"("dtype":"F32","shape":[1],"data_offsets":[4,0])", "run backwards: 4 > 0"},
      {R"("dtype":"F32","shape":[2],"data_offsets":[0,4])", "span 4 bytes, but shape [2] of F32"},
      {R"("dtype":"Q9","shape":[1],"data_offsets":[0,9223372036854775807])", "beyond any file"},
      {R"("dtype":"Q9","shape":[1],"data_offsets":[0,4])", "\"dtype\" \"Q9\" is unknown"},
      {R"("dtype":"F4","shape":[7],"data_offsets":[0,4])", "span 4 bytes, but shape [7] of F4"},
      {R"("dtype":"F6_E2M3","shape":[5],"data_offsets":[0,4])", "span 4 bytes"},
  };
  for (const Case& c : cases) {
    EXPECT_THAT(header_rejection("{\"w\":{" + c.entry + "}}", std::string(4, '\0')),
                AllOf(HasSubstr("bad.safetensors: tensor w: "), HasSubstr(c.fault)))
        << c.entry;
  }
}

TEST_F(Safetensors, TensorsMustTileTheData) {
  const std::string a = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)";
  EXPECT_THAT(header_rejection(a + R"("b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                               std::string(8, '\0')),
              HasSubstr("tensor b: its data overlaps tensor a"));
  EXPECT_THAT(header_rejection(a + R"("b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}})",
                               std::string(16, '\0')),
              HasSubstr("tensor b: 4 bytes before its data belong to no tensor"));
  EXPECT_THAT(rejection(one_tensor("w", {1, 2}) + "xyz"), HasSubstr("3 bytes after the last"));
}

TEST_F(Safetensors, ATruncatedFileSaysHowMuchIsMissing) {
  const std::string whole = one_tensor("w", {1, 2, 3});
  EXPECT_THAT(rejection(whole.substr(0, whole.size() - 5)),
              AllOf(HasSubstr("5 bytes are missing"), HasSubstr("tensor w")));
}

TEST_F(Safetensors, AFileThatCannotBeOpened) {
  EXPECT_THAT(message_of([&] { (void)open_safetensors(directory_ / "none"); }),
              AllOf(HasSubstr("none"), HasSubstr("No such file")));
  EXPECT_THAT(message_of([&] { (void)open_safetensors(directory_); }),
              HasSubstr("not a regular file"));
}

/// How many pages of `file` the system holds in memory.
index_t pages_in_memory(const std::filesystem::path& file) {
  const int descriptor = ::open(file.c_str(), O_RDONLY);
  const std::size_t bytes = std::filesystem::file_size(file);
  void* address = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, descriptor, 0);
  std::vector<unsigned char> there(bytes / 4096 + 1);
  EXPECT_EQ(::mincore(address, bytes, there.data()), 0);
  ::munmap(address, bytes);
  ::close(descriptor);
  return std::count_if(there.begin(), there.end(), [](unsigned char page) { return page & 1U; });
}

/// Writes it to disk and makes the system forget it, as far as it does.
void forget(const std::filesystem::path& file) {
  const int descriptor = ::open(file.c_str(), O_RDONLY);
  ::fsync(descriptor);
  ::posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED);
  ::close(descriptor);
}

TEST_F(Safetensors, FetchesARangeAheadOfItsUse) {
  constexpr index_t elements = index_t{12} << 20;
  const auto file = write("a.safetensors",
                          one_tensor("a", std::vector<float>(static_cast<std::size_t>(elements))));
  const auto source = open_safetensors(file);
  forget(file);
  const index_t before = pages_in_memory(file);
  if (before > 1000) GTEST_SKIP() << "this file system keeps its files in memory";
  const index_t half = elements / 2 * index_t{sizeof(float)};
  source->fetch("a", 0, half);
  EXPECT_GE(pages_in_memory(file), half / 4096);
  source->fetch("a", half, 2 * half);  // past the end: what there is
  EXPECT_GE(pages_in_memory(file), 2 * half / 4096);
}

}  // namespace
}  // namespace quip::test::safetensors_test
