#include "quip/model/rope.hpp"

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

namespace quip::rope_test {
namespace {

// The expected numbers are those of transformers 4.46 on torch 1.13.

constexpr index_t head_dim = 16;

RopeConfig rope_config(double theta, const RopeScaling& scaling) {
  return {.theta = theta, .scaling = scaling};
}

/// Equal up to one unit in the last place: torch's power function is not correctly rounded.
void expect_frequencies(const RopeConfig& config, const std::vector<double>& expected) {
  const std::vector<float> actual = rope_frequencies(config, head_dim);
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    EXPECT_NEAR(actual[i], expected[i], 1.2e-7 * expected[i]) << i;
  }
}

TEST(Rope, DefaultFrequencies) {
  expect_frequencies(
      rope_config(500000, {}),
      {1.0, 0.193922758102417, 0.03760603070259094, 0.00729266507551074, 0.001414213445968926,
       0.00027424818836152554, 5.3182957344688475e-05, 1.0313385246263351e-05});
}

TEST(Rope, LinearFrequencies) {
  expect_frequencies(
      rope_config(10000, {.kind = RopeScaling::Kind::linear, .factor = 4}),
      {0.25, 0.07905694097280502, 0.02500000037252903, 0.007905694656074047, 0.0024999999441206455,
       0.0007905694656074047, 0.0002500000118743628, 7.905694656074047e-05});
}

TEST(Rope, Llama3FrequenciesInAllThreeRegimes) {
  // Wavelengths up to 512/4 stay, beyond 512/1 are divided by 8, pair 2 lies between.
  expect_frequencies(
      rope_config(500000, {.kind = RopeScaling::Kind::llama3,
                           .factor = 8,
                           .low_freq_factor = 1,
                           .high_freq_factor = 4,
                           .original_max_position = 512}),
      {1.0, 0.193922758102417, 0.02734413370490074, 0.0009115831344388425, 0.00017677668074611574,
       3.428102354519069e-05, 6.647869668086059e-06, 1.289173155782919e-06});
}

TEST(Rope, YarnFrequenciesInAllThreeRegimes) {
  expect_frequencies(
      rope_config(10000,
                  {.kind = RopeScaling::Kind::yarn, .factor = 4, .original_max_position = 32}),
      {1.0, 0.19764235615730286, 0.02500000037252903, 0.007905694656074047, 0.0024999999441206455,
       0.0007905694656074047, 0.0002500000118743628, 7.905694656074047e-05});
  expect_frequencies(
      rope_config(500000, {.kind = RopeScaling::Kind::yarn,
                           .factor = 8,
                           .original_max_position = 512,
                           .beta_fast = 16,
                           .beta_slow = 2}),
      {1.0, 0.13736194372177124, 0.01566917821764946, 0.0009115831344388425, 0.00017677668074611574,
       3.428102354519069e-05, 6.647869668086059e-06, 1.289173155782919e-06});
}

// The ramp begins at pair 0, since no pair turns 32 times in 32 positions, and ends at the pair
// that turns once: 1.41. Made whole it would end at 2.
TEST(Rope, YarnWithARampBetweenRealNumbers) {
  const RopeConfig rope = rope_config(10000, {.kind = RopeScaling::Kind::yarn,
                                              .factor = 4,
                                              .original_max_position = 32,
                                              .truncate = false});
  const double end = 16 * std::log(32 / (2 * 3.141592653589793)) / (2 * std::log(10000.0));
  const double kept = 1 - 1 / end;
  const double frequency = std::pow(10000.0, -1.0 / 8);
  const std::vector<float> actual = rope_frequencies(rope, head_dim);
  EXPECT_NEAR(actual[1], frequency / 4 * (1 - kept) + frequency * kept, 1e-7);
  EXPECT_EQ(actual[0], 1.0F);
  EXPECT_NEAR(actual[2], 0.025, 1e-8);
}

TEST(Rope, PartOfAHeadHasTheFrequenciesOfASmallerOne) {
  RopeConfig rope = rope_config(10000, {});
  const std::vector<float> smaller = rope_frequencies(rope, 8);
  rope.partial = 0.5;
  EXPECT_EQ(rope_frequencies(rope, 16), smaller);
  EXPECT_EQ(smaller.size(), 4U);
}

TEST(Rope, TablesAreMultipliedByTheirMagnitude) {
  const std::vector<float> frequencies = rope_frequencies(rope_config(10000, {}), head_dim);
  const RopeTables plain = rope_tables(frequencies, 9);
  const RopeTables larger = rope_tables(frequencies, 9, 1.25F);
  for (index_t t = 0; t < 9; ++t) {
    for (index_t i = 0; i < 8; ++i) {
      EXPECT_EQ(larger.cosine(t, i), 1.25F * plain.cosine(t, i));
      EXPECT_EQ(larger.sine(t, i), 1.25F * plain.sine(t, i));
    }
  }
}

TEST(Rope, ATemperatureRisesEverySoManyPositions) {
  const RopeTables tables = rope_tables(std::vector<float>(4, 0.0F), 9, 1.0F, {0.5F, 3.0F});
  for (index_t t = 0; t < 9; ++t) {
    const double expected = 1 + 0.5 * std::log(1.0 + static_cast<double>((t + 1) / 3));
    for (index_t i = 0; i < 4; ++i) {
      EXPECT_NEAR(tables.cosine(t, i), expected, 1e-6) << t;
      EXPECT_EQ(tables.sine(t, i), 0.0F);
    }
  }
}

TEST(Rope, TablesAtPosition99) {
  const RopeTables tables = rope_tables(rope_frequencies(rope_config(10000, {}), head_dim), 100);
  ASSERT_EQ(tables.cosine.rows(), 100);
  ASSERT_EQ(tables.sine.cols(), 8);
  const std::vector<float> cosine = {
      0.03982087969779968F, 0.9940242171287537F, -0.8891909122467041F, -0.9999402165412903F,
      0.5486899018287659F,  0.9513939619064331F, 0.9951034784317017F,  0.9995099902153015F};
  const std::vector<float> sine = {
      -0.9992068409919739F, -0.10915950685739517F, -0.45753639936447144F, 0.010937385261058807F,
      0.8360259532928467F,  0.3079765737056732F,   0.09883836656808853F,  0.031301435083150864F};
  for (index_t i = 0; i < 8; ++i) {
    EXPECT_EQ(tables.cosine(0, i), 1.0F);
    EXPECT_EQ(tables.sine(0, i), 0.0F);
    // An ulp of a frequency moves the angle at 99 by up to 99 · 2⁻²⁴.
    EXPECT_NEAR(tables.cosine(99, i), cosine[static_cast<std::size_t>(i)], 6e-6) << i;
    EXPECT_NEAR(tables.sine(99, i), sine[static_cast<std::size_t>(i)], 6e-6) << i;
  }
}

}  // namespace
}  // namespace quip::rope_test
