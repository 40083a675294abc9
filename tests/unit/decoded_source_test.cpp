// Weights in fp8 and mxfp4, seen as fp32, against the definitions of the formats.
#include "quip/io/decoded_source.hpp"

#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "support/memory_source.hpp"
#include "support/message_of.hpp"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quip/core/error.hpp"

namespace quip::decoded_source_test {
namespace {

using test::MemorySource;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr WeightFormat blocks_of_2_by_4{WeightFormat::Kind::fp8, 2, 4};
constexpr WeightFormat mxfp4{WeightFormat::Kind::mxfp4};

/// The value of eight bits in F8_E4M3, by its definition.
double fp8_value(int bits) {
  const int exponent = bits / 8 % 16;
  const int fraction = bits % 8;
  const double size = exponent == 0 ? fraction / 8.0 * std::pow(2.0, -6)
                                    : (1 + fraction / 8.0) * std::pow(2.0, exponent - 7);
  return bits >= 128 ? -size : size;
}

std::vector<float> read(const TensorSource& source, const std::string& name, index_t first,
                        index_t count) {
  std::vector<float> values(at(count));
  read_floats(source, name, first, values);
  return values;
}

/// 3 × 6 elements in blocks of 2 × 4: the last row and the last columns are ragged.
class Fp8 : public testing::Test {
 protected:
  Fp8() {
    for (int i = 0; i < 18; ++i)
      bits_.push_back(static_cast<std::uint8_t>(i * 37 % 127 + (i % 2) * 128));
  }
  [[nodiscard]] std::unique_ptr<TensorSource> open(const std::set<std::string>& wanted = {
                                                       "w.weight"}) const {
    auto stored = std::make_unique<MemorySource>();
    stored->set_bytes("w.weight", DType::f8_e4m3, {3, 6}, bits_);
    if (has_scales_) stored->set("w.weight_scale_inv", scales_shape_, scales_);
    stored->set("norm", {2}, {1.0F, 2.0F});
    return decode_weights(std::move(stored), blocks_of_2_by_4, wanted);
  }
  [[nodiscard]] std::string error() const {
    return test::message_of([&] { (void)read(*open(), "w.weight", 0, 18); });
  }

  std::vector<std::uint8_t> bits_;
  std::vector<float> scales_ = {0.5F, 3.0F, 0.1F, 7e-3F};
  std::vector<index_t> scales_shape_ = {2, 2};
  bool has_scales_ = true;
};

TEST_F(Fp8, ValuesAreProductsWithTheScalesOfTheirBlocks) {
  const auto source = open();
  EXPECT_THAT(source->names(), ElementsAre("norm", "w.weight"));
  EXPECT_FALSE(source->contains("w.weight_scale_inv"));
  EXPECT_EQ(source->info("w.weight").dtype, DType::f32);
  EXPECT_THAT(source->info("w.weight").shape, ElementsAre(3, 6));
  const std::vector<float> all = read(*source, "w.weight", 0, 18);
  for (index_t e = 0; e < 18; ++e) {
    const float scale = scales_[at(e / 6 / 2 * 2 + e % 6 / 4)];
    EXPECT_EQ(all[at(e)], static_cast<float>(fp8_value(bits_[at(e)])) * scale) << e;
  }
  for (index_t first = 0; first < 18; ++first) {
    for (index_t count = 1; first + count <= 18; ++count) {
      EXPECT_EQ(read(*source, "w.weight", first, count),
                std::vector<float>(all.begin() + first, all.begin() + first + count));
    }
  }
  EXPECT_THAT(read(*source, "norm", 0, 2), ElementsAre(1.0F, 2.0F));
}

TEST_F(Fp8, PartsOfElementsCanBeRead) {
  const auto source = open();
  const std::vector<float> all = read(*source, "w.weight", 0, 18);
  std::vector<std::byte> bytes(31);
  source->read("w.weight", 10, bytes);
  EXPECT_EQ(std::memcmp(bytes.data(), std::as_bytes(std::span(all)).data() + 10, 31), 0);
  EXPECT_THROW(source->read("w.weight", 42, bytes), Error);
}

TEST_F(Fp8, EveryValueIsExact) {
  auto stored = std::make_unique<MemorySource>();
  std::vector<std::uint8_t> bits;
  for (int b = 0; b < 256; ++b) {
    if (b % 128 != 127) bits.push_back(static_cast<std::uint8_t>(b));
  }
  stored->set_bytes("w", DType::f8_e4m3, {2, 127}, bits);
  stored->set("w_scale_inv", {1, 32}, std::vector<float>(32, 1.0F));
  const auto source = decode_weights(std::move(stored), blocks_of_2_by_4, {"w"});
  const std::vector<float> values = read(*source, "w", 0, 254);
  for (std::size_t i = 0; i < bits.size(); ++i) {
    EXPECT_EQ(static_cast<double>(values[i]), fp8_value(bits[i])) << bits[i];
  }
}

TEST_F(Fp8, TensorsThatNothingWantsStayAsTheyAre) {
  const auto source = open({});
  EXPECT_THAT(source->names(), ElementsAre("norm", "w.weight", "w.weight_scale_inv"));
  EXPECT_EQ(source->info("w.weight").dtype, DType::f8_e4m3);
  std::vector<std::byte> bytes(18);
  source->read("w.weight", 0, bytes);
  EXPECT_EQ(std::memcmp(bytes.data(), bits_.data(), 18), 0);
}

TEST_F(Fp8, FaultsNameTheTensor) {
  bits_[7] = 0xff;
  EXPECT_THAT(error(), AllOf(HasSubstr("tensor w.weight of memory"), HasSubstr("element 7"),
                             HasSubstr("a NaN")));
  bits_[7] = 0;
  for (const float bad : {INFINITY, NAN}) {
    scales_[3] = bad;
    EXPECT_THAT(error(), HasSubstr("tensor w.weight_scale_inv of memory: element 3"));
  }
  scales_[3] = 0.0F;
  EXPECT_THAT(error(), AllOf(HasSubstr("tensor w.weight_scale_inv of memory"),
                             HasSubstr("block (1, 1) is 0")));
  scales_shape_ = {1, 4};
  EXPECT_THAT(error(), AllOf(HasSubstr("tensor w.weight_scale_inv of memory has shape [1, 4]"),
                             HasSubstr("w.weight ask for [2, 2]")));
  has_scales_ = false;
  EXPECT_THAT(error(), AllOf(HasSubstr("tensor w.weight_scale_inv is not in memory"),
                             HasSubstr("scales of w.weight")));
}

/// Two experts of two rows, each of 64 elements.
class Mxfp4 : public testing::Test {
 protected:
  Mxfp4() {
    for (int i = 0; i < 128; ++i) blocks_.push_back(static_cast<std::uint8_t>(i * 89 % 256));
  }
  [[nodiscard]] std::unique_ptr<TensorSource> open() const {
    auto stored = std::make_unique<MemorySource>();
    stored->set_bytes("w_blocks", DType::u8, shape_, blocks_);
    if (has_scales_) stored->set_bytes("w_scales", DType::u8, scales_shape_, scales_);
    return decode_weights(std::move(stored), mxfp4, {"w_blocks"});
  }
  [[nodiscard]] std::string error() const {
    return test::message_of([&] { (void)read(*open(), "w_blocks", 0, 256); });
  }

  std::vector<index_t> shape_ = {2, 2, 2, 16};
  std::vector<std::uint8_t> blocks_;
  std::vector<index_t> scales_shape_ = {2, 2, 2};
  std::vector<std::uint8_t> scales_ = {127, 120, 130, 0, 128, 252, 1, 127};
  bool has_scales_ = true;
};

TEST_F(Mxfp4, ValuesAreTwoToABlocksPowerTimesOneOfSixteen) {
  const auto source = open();
  EXPECT_THAT(source->names(), ElementsAre("w_blocks"));
  EXPECT_THAT(source->info("w_blocks").shape, ElementsAre(2, 2, 64));
  const std::vector<float> all = read(*source, "w_blocks", 0, 256);
  constexpr double sizes[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  for (index_t e = 0; e < 256; ++e) {
    const int bits = e % 2 == 0 ? blocks_[at(e / 2)] % 16 : blocks_[at(e / 2)] / 16;
    const double size = sizes[bits % 8] * std::pow(2.0, scales_[at(e / 32)] - 127);
    EXPECT_EQ(static_cast<double>(all[at(e)]), bits >= 8 ? -size : size) << e;
  }
  for (index_t first = 0; first < 256; first += 7) {
    const index_t count = std::min<index_t>(61, 256 - first);
    EXPECT_EQ(read(*source, "w_blocks", first, count),
              std::vector<float>(all.begin() + first, all.begin() + first + count));
  }
}

TEST_F(Mxfp4, FaultsNameTheTensor) {
  scales_[5] = 255;
  EXPECT_THAT(error(), AllOf(HasSubstr("tensor w_scales of memory"), HasSubstr("block 5 is 255")));
  scales_shape_ = {2, 4};
  EXPECT_THAT(error(), HasSubstr("tensor w_scales of memory has shape [2, 4]"));
  has_scales_ = false;
  EXPECT_THAT(error(), HasSubstr("tensor w_scales is not in memory"));
  shape_ = {2, 4, 2, 8};
  EXPECT_THAT(error(), HasSubstr("tensor w_blocks of memory is U8 of shape [2, 4, 2, 8]"));
}

}  // namespace
}  // namespace quip::decoded_source_test
