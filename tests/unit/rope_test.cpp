#include "quip/model/rope.hpp"

#include <vector>

#include <gtest/gtest.h>

namespace quip {
namespace {

// The expected numbers are those of transformers 4.46 on torch 1.13.

ModelConfig rope_config(double theta, const RopeScaling& scaling) {
  ModelConfig config;
  config.head_dim = 16;
  config.rope_theta = theta;
  config.rope_scaling = scaling;
  return config;
}

/// Equal up to one unit in the last place: torch's power function is not correctly rounded.
void expect_frequencies(const ModelConfig& config, const std::vector<double>& expected) {
  const std::vector<float> actual = rope_frequencies(config);
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

TEST(Rope, TablesAtPosition99) {
  const RopeTables tables = rope_tables(rope_frequencies(rope_config(10000, {})), 100);
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
}  // namespace quip
