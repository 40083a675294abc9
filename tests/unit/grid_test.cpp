// Grids and codes: by hand, and LDLQ on them against its definition.
#include "quip/quant/code/grid.hpp"

#include <cmath>
#include <vector>

#include "support/one_layer.hpp"
#include "support/scalar_options.hpp"
#include <gtest/gtest.h>

#include "quip/core/error.hpp"

namespace quip::grid_test {
namespace {

// LDLQ from its definition, column by column in fp64 with L in fp64: almost every code agrees
// (those within rounding of a boundary may fall to either side and pull others along).
TEST(Ldlq, FollowsItsDefinition) {
  constexpr index_t m = 40;
  constexpr index_t n = 150;
  const Matrix<float> w = random_weights(m, n, 5);
  const Matrix<double> h = random_hessian(n, 300, 6);
  LayerOptions options = scalar_options();
  options.processing = Processing::baseline;
  options.bits = 3;
  const Outcome out = quantize(w, h, options);

  Matrix<double> c(n, n, 0.0);  // Cholesky of H + λI, textbook
  double mean = 0;
  for (index_t i = 0; i < n; ++i) mean += h(i, i) / n;
  for (index_t j = 0; j < n; ++j) {
    for (index_t i = j; i < n; ++i) {
      double sum = h(i, j) + (i == j ? 0.01 * mean : 0.0);
      for (index_t k = 0; k < j; ++k) sum -= c(i, k) * c(j, k);
      c(i, j) = i == j ? std::sqrt(sum) : sum / c(j, j);
    }
  }
  int different = 0;
  for (index_t r = 0; r < m; ++r) {
    std::vector<double> error(at(n), 0.0);
    std::vector<std::uint8_t> codes(at(n));
    unpack_row(out.layer.codes.data() + r * out.layer.row_bytes(), n, 3, codes.data());
    for (index_t k = n - 1; k >= 0; --k) {
      const double g =
          w(r, k) / static_cast<double>(out.layer.scale[at(r)]) + out.layer.zero[at(r)];
      double target = g;
      for (index_t j = k + 1; j < n; ++j) target += error[at(j)] * c(j, k) / c(k, k);
      const double q = std::clamp(std::floor(target + 0.5), 0.0, 7.0);
      error[at(k)] = g - q;
      different += q != codes[at(k)] ? 1 : 0;
    }
  }
  EXPECT_LE(different, m * n / 500);
}

/// L of H + λI = (L+I) D (L+I)ᵀ with λ = 0.01·mean(diag H), from a textbook Cholesky factor.
Matrix<double> unit_lower_factor(const Matrix<double>& h) {
  const index_t n = h.rows();
  Matrix<double> c(n, n, 0.0);
  double mean = 0;
  for (index_t i = 0; i < n; ++i) mean += h(i, i) / static_cast<double>(n);
  for (index_t j = 0; j < n; ++j) {
    for (index_t i = j; i < n; ++i) {
      double sum = h(i, j) + (i == j ? 0.01 * mean : 0.0);
      for (index_t k = 0; k < j; ++k) sum -= c(i, k) * c(j, k);
      c(i, j) = i == j ? std::sqrt(sum) : sum / c(j, j);
    }
  }
  for (index_t j = 0; j < n; ++j) {
    const double pivot = c(j, j);
    for (index_t i = j; i < n; ++i) c(i, j) /= pivot;
  }
  return c;
}

// With groups, the feedback is of weights: the steps of two columns differ. fp64 throughout; codes
// within rounding of a boundary may fall to either side and pull others along.
TEST(Ldlq, WithGroupsFollowsItsDefinition) {
  constexpr index_t m = 40;
  constexpr index_t n = 150;
  constexpr index_t group_size = 40;
  const Matrix<float> w = random_weights(m, n, 5);
  const Matrix<double> h = random_hessian(n, 300, 6);
  LayerOptions options = scalar_options();
  options.processing = Processing::baseline;
  options.bits = 3;
  options.group_size = group_size;
  options.scale_type = ScaleType::fp32;
  const QuantizedLinear layer = quantize(w, h, options).layer;
  ASSERT_EQ(layer.groups(), 4);
  const Matrix<double> l = unit_lower_factor(h);
  int different = 0;
  for (index_t r = 0; r < m; ++r) {
    std::vector<double> error(at(n), 0.0);
    std::vector<std::uint8_t> codes(at(n));
    unpack_row(layer.codes.data() + r * layer.row_bytes(), n, 3, codes.data());
    for (index_t k = n - 1; k >= 0; --k) {
      const index_t first = k / group_size * group_size;
      const index_t last = std::min(n, first + group_size);
      const float low = std::min(0.0F, *std::min_element(w.row(r) + first, w.row(r) + last));
      const float high = std::max(0.0F, *std::max_element(w.row(r) + first, w.row(r) + last));
      const double step = (static_cast<double>(high) - low) / 7;
      const double zero = std::nearbyint(-low / step);
      ASSERT_NEAR(layer.scale[at(r * 4 + k / group_size)], step, 1e-6 * step);
      ASSERT_EQ(layer.zero[at(r * 4 + k / group_size)], zero);
      double target = w(r, k);
      for (index_t j = k + 1; j < n; ++j) target += error[at(j)] * l(j, k);
      const double q = std::clamp(std::floor(target / step + zero + 0.5), 0.0, 7.0);
      error[at(k)] = w(r, k) - (q - zero) * step;
      different += q != codes[at(k)] ? 1 : 0;
    }
  }
  EXPECT_LE(different, m * n / 500);
}

// A wrong step anywhere in a rounder would tear the loss that it reports from that of the weights.
TEST(Groups, EveryMethodReportsTheLossOfTheStoredWeights) {
  const Matrix<float> w = random_weights(70, 160, 1);
  const Matrix<double> h = random_hessian(160, 400, 2);
  LayerOptions options = scalar_options();
  options.processing = Processing::baseline;
  options.bits = 3;
  options.group_size = 24;
  for (const MethodTraits& traits : methods) {
    const Method method = traits.method;
    for (const Clamp clamp : {Clamp::pre, Clamp::feedback}) {
      options.method = method;
      options.clamp = clamp;
      options.act_order = method == Method::optq && clamp == Clamp::feedback;
      const Outcome out = quantize(w, h, options);
      const Matrix<float> restored = dequantize(out.layer);
      Matrix<float> delta(70, 160);
      for (index_t i = 0; i < delta.size(); ++i) delta.data()[i] = restored.data()[i] - w.data()[i];
      EXPECT_NEAR(out.loss, trace_loss(delta.cview(), h), 2e-3 * out.loss + 1e-7 * out.reference)
          << to_string(method) << ' ' << to_string(clamp);
      EXPECT_LT(out.loss, 0.1 * out.reference) << to_string(method) << ' ' << to_string(clamp);
      EXPECT_EQ(digest_of(quantize(w, h, options, 3).layer), digest_of(out.layer));
    }
  }
}

TEST(Ldlq, SmallerGroupsLoseLess) {
  Matrix<float> w = random_weights(64, 128, 7);
  for (index_t r = 0; r < 64; ++r) w(r, r) *= 20;  // an outlier widens its whole grid
  const Matrix<double> h = random_hessian(128, 256, 8);
  LayerOptions options = scalar_options();
  options.processing = Processing::baseline;
  options.bits = 3;
  const double row = quantize(w, h, options).loss;
  options.group_size = 32;
  EXPECT_LT(quantize(w, h, options).loss, 0.7 * row);
}

// A weight matrix that lies on the grid loses nothing.
TEST(Nearest, GridPointsComeBackExactly) {
  constexpr index_t n = 32;
  for (const int bits : {2, 3, 4, 8}) {
    Matrix<float> w(3, n);
    const int top = (1 << bits) - 1;
    for (index_t r = 0; r < 3; ++r) {
      for (index_t j = 0; j < n; ++j) {
        // Powers of two as steps; the row's ends and its zero are all on the grid.
        const index_t level = j == 0 ? 0 : (j == 1 ? top : (7 * j + r) % (top + 1));
        w(r, j) = std::ldexp(static_cast<float>(level - 1), -4);
      }
    }
    LayerOptions options = scalar_options();
    options.processing = Processing::baseline;
    options.method = Method::nearest;
    options.bits = bits;
    const Matrix<float> restored = dequantize(quantize(w, random_hessian(n, 64, 9), options).layer);
    for (index_t i = 0; i < w.size(); ++i) EXPECT_EQ(restored.data()[i], w.data()[i]) << bits;
  }
}

TEST(PackedCodes, RoundTripAtEveryWidth) {
  for (const int bits : {2, 3, 4, 8}) {
    for (const index_t cols : {index_t{1}, index_t{7}, index_t{8}, index_t{129}}) {
      std::vector<std::uint8_t> codes(at(cols));
      for (index_t k = 0; k < cols; ++k) {
        codes[at(k)] = static_cast<std::uint8_t>((37 * k + 11) % (1 << bits));
      }
      std::vector<std::uint8_t> packed(at((cols * bits + 7) / 8), 0xAA);
      pack_row(codes.data(), cols, bits, packed.data());
      std::vector<std::uint8_t> back(codes.size());
      unpack_row(packed.data(), cols, bits, back.data());
      EXPECT_EQ(back, codes) << bits << " bits, " << cols << " columns";
    }
  }
}

// 3 bits, least significant first: 1, 2, 3 → 001 | 010 <<3 | 011 <<6 = 0b011'010'001 = 0xD1, bit 8
// = 0.
TEST(PackedCodes, LayoutIsTheDocumentedOne) {
  const std::uint8_t codes[] = {1, 2, 3};
  std::uint8_t packed[2] = {0xFF, 0xFF};
  pack_row(codes, 3, 3, packed);
  EXPECT_EQ(packed[0], 0xD1);
  EXPECT_EQ(packed[1], 0x00);
}

TEST(MinmaxGrid, CoversTheRowAndHasZeroOnIt) {
  const RowGrid p = fit_minmax(-1.0F, 2.0F, 2);
  EXPECT_FLOAT_EQ(p.step, 1.0F);
  EXPECT_EQ(p.offset, 1);
  const RowGrid zeros = fit_minmax(0.0F, 0.0F, 2);
  EXPECT_FLOAT_EQ(zeros.step, 2.0F / 3.0F);
}

// [−1, 2] becomes [−2, 2] on 4 levels: steps of 4/3, zero is level 2.
TEST(MinmaxGrid, SymmetricHasZeroInItsMiddle) {
  const RowGrid p = fit_symmetric(-1.0F, 2.0F, 2);
  EXPECT_FLOAT_EQ(p.step, 4.0F / 3.0F);
  EXPECT_EQ(p.offset, 2);
  EXPECT_EQ(fit_symmetric(-3.0F, 0.0F, 4).offset, 8);
  EXPECT_FLOAT_EQ(fit_symmetric(-3.0F, 0.0F, 4).step, 0.4F);
  EXPECT_FLOAT_EQ(fit_symmetric(0.0F, 0.0F, 2).step, 2.0F / 3.0F);
}

// 0.1 is 0x2E66 as a half, 1638·2⁻¹⁴; of its 11 significant bits bf16 keeps 8: 205·2⁻¹¹.
TEST(MinmaxGrid, StepsAreRoundedToWhatTheyAreStoredIn) {
  EXPECT_EQ(half_step(0.1F), 1638 * 0x1p-14F);
  EXPECT_EQ(short_half_step(0.1F), 205 * 0x1p-11F);
  EXPECT_EQ(half_step(1e-30F), 0x1p-24F);
  const RowGrid grid = fit_minmax(-0.1F, 0.2F, 2, half_step);
  EXPECT_EQ(grid.step, 1638 * 0x1p-14F);
  EXPECT_EQ(grid.inverse, 1 / (1638 * 0x1p-14F));
}

// Two rows of six columns in groups of four: scales and zero points by hand.
TEST(Dequantize, EveryGroupHasItsScaleAndZero) {
  QuantizedLinear layer;
  layer.rows = 2;
  layer.cols = 6;
  layer.bits = 4;
  layer.grid = GridKind::minmax;
  layer.transform = TransformKind::none;
  layer.group_size = 4;
  layer.scale = {1.0F, 0.5F, 2.0F, 4.0F};
  layer.zero = {1, 2, 3, 4};
  const std::uint8_t codes[2][6] = {{0, 1, 2, 3, 4, 5}, {6, 7, 8, 9, 10, 11}};
  layer.codes.resize(6);
  for (index_t i = 0; i < 2; ++i) pack_row(codes[i], 6, 4, layer.codes.data() + 3 * i);
  validate(layer, "test");
  const float expected[] = {-1, 0, 1, 2, 1, 1.5, 6, 8, 10, 12, 24, 28};
  const Matrix<float> w = dequantize(layer);
  for (index_t i = 0; i < w.size(); ++i) EXPECT_EQ(w.data()[i], expected[i]) << i;
  layer.scale.pop_back();
  EXPECT_THROW(validate(layer, "test"), Error);
}

// Symmetric: 2^(bits−1) is the zero point of every row and nothing is stored.
TEST(Dequantize, SymmetricGridsStoreNoZero) {
  QuantizedLinear layer;
  layer.rows = 1;
  layer.cols = 4;
  layer.bits = 2;
  layer.grid = GridKind::minmax;
  layer.transform = TransformKind::none;
  layer.symmetric = true;
  layer.scale = {0.25F};
  layer.codes = {0b11100100};
  validate(layer, "test");
  const float expected[] = {-0.5F, -0.25F, 0.0F, 0.25F};
  const Matrix<float> w = dequantize(layer);
  for (index_t i = 0; i < 4; ++i) EXPECT_EQ(w.data()[i], expected[i]) << i;
}

// What reads a layer differently is told apart; what does not apply leaves the digest alone.
TEST(Digest, TellsGroupsAndSymmetryApart) {
  QuantizedLinear layer;
  layer.rows = 1;
  layer.cols = 4;
  layer.bits = 2;
  layer.grid = GridKind::minmax;
  layer.scale = {0.25F, 1.0F};
  layer.codes = {0};
  layer.group_size = 2;
  const std::string two = digest_of(layer);
  layer.group_size = 3;
  const std::string three = digest_of(layer);
  layer.symmetric = true;
  EXPECT_NE(two, three);
  EXPECT_NE(three, digest_of(layer));
}

}  // namespace
}  // namespace quip::grid_test
