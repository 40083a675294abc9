// Every rounding method: the same bits for any split, and bad Hessians that end well or in an
// error.
#include <algorithm>

#include "support/hessians.hpp"
#include "support/scalar_options.hpp"
#include <gtest/gtest.h>
#include <omp.h>

#include "quip/core/error.hpp"
#include "quip/quant/layer.hpp"

namespace quip::rounding_conditions_test {
namespace {

LayerOptions plain(Method method) {
  LayerOptions options = scalar_options();
  options.processing = Processing::baseline;
  options.bits = 3;
  options.method = method;
  return options;
}

struct SplitCase {
  Method method;
  Processing processing;
  Rounding rounding;
};
class RounderSplits : public testing::TestWithParam<SplitCase> {};

TEST_P(RounderSplits, PartsAndThreadsDoNotChangeABit) {
  const auto [method, processing, rounding] = GetParam();
  LayerOptions options = plain(method);
  options.processing = processing;
  options.rounding = rounding;
  if (rounding == Rounding::stochastic) options.passes = 0;
  const Matrix<float> w = test::gaussian_weights(101, 140, 10);
  const Matrix<double> h = test::correlated_hessian(140, 300, 11);
  const auto codes = [&](int parts, int threads) {
    omp_set_num_threads(threads);
    const PreparedLayer layer = prepare_layer(w.cview(), test::copy_of(h), options, "test");
    const LayerTransforms transforms =
        make_transforms(options.effective_transform(), 101, 140, layer.seed_u, layer.seed_v);
    std::pair<std::vector<std::uint8_t>, std::vector<double>> out;
    int passes = 0;
    for (int part = 0; part < parts; ++part) {
      const RoundedRows rows =
          round_rows(transform_rows(w.cview(), layer, transforms, share_of(101, part, parts)),
                     layer, options, 2.0);
      validate(rows.layer, "a part");
      out.first.insert(out.first.end(), rows.layer.codes.begin(), rows.layer.codes.end());
      for (const RowLoss& row : rows.losses) out.second.push_back(row.loss);
      passes = std::max(passes, rows.passes);
    }
    out.second.push_back(passes);
    omp_set_num_threads(1);
    return out;
  };
  const auto expected = codes(1, 1);
  EXPECT_EQ(codes(2, 2), expected);
  EXPECT_EQ(codes(5, 3), expected);
}

std::vector<SplitCase> split_cases() {
  std::vector<SplitCase> cases;
  for (const Processing processing : {Processing::baseline, Processing::incoherence}) {
    for (const MethodTraits& traits : methods) {
      const Method method = traits.method;
      cases.push_back({method, processing, Rounding::nearest});
      if (method != Method::greedy) cases.push_back({method, processing, Rounding::stochastic});
    }
  }
  return cases;
}
INSTANTIATE_TEST_SUITE_P(All, RounderSplits, testing::ValuesIn(split_cases()));

// Codes are stored by column whatever the order of rounding: at 8 bits every method must return
// nearly the weights it was given.
TEST(RoundRows, CodesAreInTheColumnsOwnOrder) {
  const index_t n = 96;
  const Matrix<float> w = test::gaussian_weights(32, n, 12);
  const Matrix<double> h = test::correlated_hessian(n, 300, 13);
  for (const MethodTraits& traits : methods) {
    const Method method = traits.method;
    LayerOptions options = plain(method);
    options.bits = 8;
    const PreparedLayer layer = prepare_layer(w.cview(), test::copy_of(h), options, "test");
    const LayerTransforms transforms = make_transforms(TransformKind::none, 32, n, 0, 0);
    const RoundedRows rows =
        round_rows(transform_rows(w.cview(), layer, transforms, {0, 32}), layer, options, 0);
    for (index_t r = 0; r < 32; ++r) {
      for (index_t j = 0; j < n; ++j) {
        const float level =
            static_cast<float>(rows.layer.codes[at(r * n + j)] - rows.layer.zero[at(r)]);
        // Feedback moves a level by a few steps at most; neighbours differ by dozens.
        EXPECT_NEAR(level * rows.layer.scale[at(r)], w(r, j), 8 * rows.layer.scale[at(r)])
            << to_string(method);
      }
    }
  }
}

TEST(StochasticRounding, DependsOnTheSeedAndIsUnbiased) {
  const index_t n = 64;
  LayerOptions options = plain(Method::nearest);
  options.rounding = Rounding::stochastic;
  options.bits = 8;
  const Matrix<float> w = test::gaussian_weights(256, n, 14);
  const Matrix<double> h = test::correlated_hessian(n, 200, 15);
  std::vector<std::vector<std::uint8_t>> codes;
  for (const std::uint64_t seed : {1U, 1U, 2U}) {
    options.seed = seed;
    const PreparedLayer layer = prepare_layer(w.cview(), test::copy_of(h), options, "test");
    const LayerTransforms transforms = make_transforms(TransformKind::none, 256, n, 0, 0);
    const RoundedRows rows =
        round_rows(transform_rows(w.cview(), layer, transforms, {0, 256}), layer, options, 0);
    codes.push_back(rows.layer.codes);
    double bias = 0;
    for (index_t r = 0; r < 256; ++r) {
      for (index_t j = 0; j < n; ++j) {
        const double level =
            static_cast<double>(rows.layer.codes[at(r * n + j)]) - rows.layer.zero[at(r)];
        bias += level - w(r, j) / static_cast<double>(rows.layer.scale[at(r)]);
      }
    }
    // An error's variance is f(1−f) ≤ 1/4: five standard deviations of the mean of 256·64.
    EXPECT_NEAR(bias / (256 * n), 0.0, 5 * 0.5 / std::sqrt(256.0 * n));
  }
  EXPECT_EQ(codes[0], codes[1]);
  EXPECT_NE(codes[0], codes[2]);
}

class BadHessian : public testing::TestWithParam<MethodTraits> {
 protected:
  static constexpr index_t n = 40;
  LayerOptions options_ = plain(GetParam().method);
  const Matrix<float> w_ = test::gaussian_weights(33, n, 16);

  void expect_error(Matrix<double> h) const {
    try {
      const PreparedLayer layer = prepare_layer(w_.cview(), std::move(h), options_, "blk.3.down");
      FAIL() << "accepted it with damping " << layer.damping;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("blk.3.down"), std::string::npos) << error.what();
    }
  }
  RoundedRows quantized(const Matrix<double>& h, PreparedLayer& layer) const {
    layer = prepare_layer(w_.cview(), test::copy_of(h), options_, "blk.3.down");
    const LayerTransforms transforms =
        make_transforms(options_.effective_transform(), 33, n, layer.seed_u, layer.seed_v);
    RoundedRows rows =
        round_rows(transform_rows(w_.cview(), layer, transforms, {0, 33}), layer, options_, 2.0);
    for (const RowLoss& row : rows.losses) {
      EXPECT_TRUE(std::isfinite(row.loss));
      EXPECT_GE(row.loss, -1e-5 * (1 + std::abs(row.reference)));
    }
    return rows;
  }
};
INSTANTIATE_TEST_SUITE_P(EveryMethod, BadHessian, testing::ValuesIn(methods));

TEST_P(BadHessian, IndefiniteIsAnErrorThatNamesTheLayer) {
  Matrix<double> h = test::correlated_hessian(n, 100, 17);
  double trace = 0;
  for (index_t j = 0; j < n; ++j) trace += h(j, j);
  h(5, 5) = -0.9 * trace;  // out of reach of the largest damping, 100 × the mean
  expect_error(std::move(h));
}

TEST_P(BadHessian, NotANumberIsAnErrorThatNamesTheLayer) {
  Matrix<double> h = test::correlated_hessian(n, 100, 18);
  h(7, 7) = std::nan("");
  expect_error(test::copy_of(h));
  h(7, 7) = 1.0;
  h(9, 2) = h(2, 9) = std::nan("");
  expect_error(std::move(h));
}

TEST_P(BadHessian, SingularWithoutDampingIsDampedAndSaysSo) {
  options_.damping = 0;
  PreparedLayer layer;
  const RoundedRows rows = quantized(Matrix<double>(n, n, 1.0), layer);
  EXPECT_GT(layer.damping_tries, 1);
  EXPECT_GT(layer.damping, 0.0);
  EXPECT_EQ(rows.losses.size(), 33U);
}

// Of a layer that no input reaches nothing is known but W: it is rounded as with H = I, in whose
// units the losses are: ‖Ŵ − W‖² and ‖W‖².
TEST_P(BadHessian, ZeroRoundsTheWeightsThemselves) {
  for (const Processing processing : {Processing::baseline, Processing::incoherence}) {
    options_.processing = processing;
    PreparedLayer layer;
    const RoundedRows rows = quantized(Matrix<double>(n, n, 0.0), layer);
    EXPECT_EQ(layer.dead_channels, n);
    EXPECT_EQ(layer.loss_unit, 0.0);
    EXPECT_TRUE(layer.dead.empty() && layer.rescale.empty());
    double norm = 0;  // of all rows, which U mixes
    for (index_t i = 0; i < w_.size(); ++i) {
      norm += static_cast<double>(w_.data()[i]) * w_.data()[i];
    }
    RowLoss sum;
    for (const RowLoss& row : rows.losses) {
      sum.loss += row.loss;
      sum.reference += row.reference;
    }
    EXPECT_NEAR(sum.reference, norm, 1e-4 * norm);
    EXPECT_GT(sum.loss, 1e-3 * norm);  // 3 bits leave more
    EXPECT_LT(sum.loss, 0.3 * norm);
  }
}

TEST_P(BadHessian, OneSampleIsEnoughWithDamping) {
  for (const Processing processing : {Processing::baseline, Processing::incoherence}) {
    options_.processing = processing;
    PreparedLayer layer;
    static_cast<void>(quantized(test::correlated_hessian(n, 1, 19), layer));
    EXPECT_EQ(layer.damping_tries, 1);
  }
}

}  // namespace
}  // namespace quip::rounding_conditions_test
