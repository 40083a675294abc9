// Targets of layers against least squares by Gaussian elimination.
#include "quip/pipeline/stream_target.hpp"

#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "support/one_layer.hpp"
#include <gtest/gtest.h>

#include "quip/calib/hessian.hpp"

namespace quip::stream_target_test {
namespace {

constexpr index_t samples = 12;
constexpr index_t length = 50;
constexpr index_t tokens = samples * length;
constexpr index_t rows = 70;
constexpr index_t n = 140;

SampleShard shard_of_samples() {
  SampleShard shard;
  shard.samples = {0, samples};
  shard.length = length;
  shard.ids.resize(tokens);
  for (index_t s = 0; s <= samples; ++s) shard.offsets.push_back(s * length);
  return shard;
}

/// Returns a + factor·b.
Matrix<float> sum_of(const Matrix<float>& a, float factor, const Matrix<float>& b) {
  Matrix<float> sum(a.rows(), a.cols());
  for (index_t i = 0; i < a.size(); ++i) sum.data()[i] = a.data()[i] + factor * b.data()[i];
  return sum;
}

/// Solves A X = B for symmetric positive definite A [n × n] and B [n × m], in place.
void eliminate(Matrix<double>& a, Matrix<double>& b) {
  for (index_t k = 0; k < a.rows(); ++k) {
    for (index_t i = 0; i < a.rows(); ++i) {
      if (i == k) continue;
      const double factor = a(i, k) / a(k, k);
      for (index_t j = k; j < a.cols(); ++j) a(i, j) -= factor * a(k, j);
      for (index_t j = 0; j < b.cols(); ++j) b(i, j) -= factor * b(k, j);
    }
  }
  for (index_t k = 0; k < a.rows(); ++k) {
    for (index_t j = 0; j < b.cols(); ++j) b(k, j) /= a(k, k);
  }
}

class StreamTargetOf : public testing::TestWithParam<bool> {
 protected:
  /// Returns the fit of e [tokens × m] on x, transposed, as far as it holds.
  [[nodiscard]] Matrix<double> fit_of(const Matrix<double>& e) const {
    Matrix<double> h(n, n, 0.0);
    Matrix<double> fit(n, e.cols(), 0.0);
    double energy = 0;
    for (index_t t = 0; t < tokens; ++t) {
      for (index_t i = 0; i < e.cols(); ++i) energy += e(t, i) * e(t, i) / tokens;
      for (index_t j = 0; j < n; ++j) {
        for (index_t k = 0; k < n; ++k) h(j, k) += double{x_(t, j)} * x_(t, k) / tokens;
        for (index_t i = 0; i < e.cols(); ++i) fit(j, i) += e(t, i) * x_(t, j) / tokens;
      }
    }
    double trace = 0;
    for (index_t j = 0; j < n; ++j) trace += h(j, j);
    for (index_t j = 0; j < n; ++j) h(j, j) += 0.01 * trace / n;
    const Matrix<double> sums = pad(fit.cview(), n, e.cols());
    eliminate(h, fit);
    double explained = 0;
    for (index_t i = 0; i < fit.size(); ++i) explained += sums.data()[i] * fit.data()[i];
    // R² adjusted for the number of inputs.
    const double r2 = explained / energy;
    const double adjusted = 1 - (1 - r2) * (tokens - 1.0) / (tokens - n - 1.0);
    for (double& value : fit.span()) value *= std::max(0.0, adjusted / r2);
    return fit;
  }

  /// W* − W by its definition, from the activations as they are.
  [[nodiscard]] Matrix<double> expected(const LinearSpec& linear) const {
    Matrix<double> drift(tokens, n);
    for (index_t i = 0; i < drift.size(); ++i) {
      drift.data()[i] = double{full_x_.data()[i]} - x_.data()[i];
    }
    const double alpha = options_.stream.drift;
    Matrix<double> step(linear.rows, n, 0.0);
    if (!linear.adds && !GetParam()) {  // M, which layers have in common
      const Matrix<double> m = fit_of(drift);
      for (index_t i = 0; i < linear.rows; ++i) {
        for (index_t k = 0; k < n; ++k) {
          for (index_t j = 0; j < n; ++j) step(i, j) += alpha * w_(i, k) * m(j, k);
        }
      }
      return step;
    }
    Matrix<double> e(tokens, linear.rows, 0.0);
    for (index_t t = 0; t < tokens; ++t) {
      for (index_t i = 0; i < linear.rows; ++i) {
        for (index_t j = 0; j < n; ++j) e(t, i) += alpha * w_(i, j) * drift(t, j);
        if (linear.adds) e(t, i) += options_.stream.residual * (double{full_r_(t, i)} - r_(t, i));
      }
    }
    const Matrix<double> fit = fit_of(e);
    for (index_t i = 0; i < linear.rows; ++i) {
      for (index_t j = 0; j < n; ++j) step(i, j) = fit(j, i);
    }
    return step;
  }

  /// Checks W* of one layer, with H at hand or spread over ranks.
  void check(bool adds) {
    LinearSpec linear{.name = "layer", .type = "layer", .rows = rows, .cols = n, .adds = adds};
    const WeightSet weights = loaded();
    const TapStreams streams{{x_.cview(), 0, length}, full_x_.cview(), r_.cview(), full_r_.cview()};
    const Matrix<double> h = exact_hessian(comm_, *backend_, x_.cview(), 0, length, "layer");
    StreamTarget target(comm_, *backend_, options_, phases_);
    const StreamTargets made =
        target.make({{linear, {}}}, streams, GetParam() ? MatrixView<const double>() : h.cview(),
                    weights, shard_of_samples(), true);
    const ConstTensorView moved = made.weights["layer.weight"];
    const Matrix<double> step = expected(linear);
    double worst = 0;
    double square = 0;
    double norm = 0;
    for (index_t i = 0; i < rows; ++i) {
      for (index_t j = 0; j < n; ++j) {
        worst = std::max(worst, std::abs(moved(i, j) - w_(i, j) - step(i, j)));
        square += step(i, j) * step(i, j);
        norm += double{w_(i, j)} * w_(i, j);
      }
    }
    EXPECT_LE(worst, tolerance_ * std::sqrt(norm / (rows * n)));
    EXPECT_GT(square, 1e-4 * norm);
    EXPECT_NEAR(made.shifts.at("layer"), std::sqrt(square / norm), tolerance_);
  }

  [[nodiscard]] WeightSet loaded() {
    WeightSet weights;
    Tensor w = backend_->allocate(rows, n);
    backend_->upload(w_.span(), w.view());
    weights.insert("layer.weight", std::move(w));
    return weights;
  }

  // The integers of the sums have 15 bits, as those of every Hessian.
  double tolerance_ = 1e-3;
  QuantizeOptions options_ = [] {
    QuantizeOptions options;
    options.stream = {true, 0.7, 0.4};
    return options;
  }();
  SelfCollectives comm_;
  std::unique_ptr<Backend> backend_ = make_cpu_backend(2);
  Phases phases_;
  Matrix<float> w_ = random_weights(rows, n, 1);
  Matrix<float> x_ = random_weights(tokens, n, 2);
  // Errors that x tells something about, and some noise.
  Matrix<float> full_x_ = sum_of(sum_of(x_, 0.3F, x_), 0.1F, random_weights(tokens, n, 3));
  Matrix<float> r_ = random_weights(tokens, rows, 4);
  Matrix<float> full_r_ = [this] {
    Matrix<float> part(tokens, rows);
    crop<float>(x_.cview(), part.view());
    return sum_of(sum_of(r_, 0.2F, part), 0.1F, random_weights(tokens, rows, 5));
  }();
};

TEST_P(StreamTargetOf, ALayerThatAddsToTheResidual) { check(true); }

TEST_P(StreamTargetOf, ALayerThatDoesNot) { check(false); }

TEST_P(StreamTargetOf, ValuesThatIntegersHoldMeetTheFormulaToFp32) {
  // Quarters below 16: rounding to integers of 16 bits changes nothing.
  for (Matrix<float>* values : {&x_, &full_x_, &r_, &full_r_, &w_}) {
    for (float& value : values->span()) value = std::nearbyint(value * 40.0F) / 4.0F;
  }
  options_.stream = {true, 1.0, 1.0};
  tolerance_ = 1e-6;
  check(true);
  check(false);
}

TEST_P(StreamTargetOf, EqualStreamsMoveNothing) {
  LinearSpec linear{.name = "layer", .type = "layer", .rows = rows, .cols = n, .adds = true};
  const WeightSet weights = loaded();
  const TapStreams streams{{x_.cview(), 0, length}, x_.cview(), r_.cview(), r_.cview()};
  StreamTarget target(comm_, *backend_, options_, phases_);
  const StreamTargets made = target.make({{linear, {}}}, streams, MatrixView<const double>(),
                                         weights, shard_of_samples(), true);
  EXPECT_TRUE(made.shifts.empty());
  EXPECT_EQ(made.weights["layer.weight"].data, weights["layer.weight"].data);
}

TEST(FitShare, IsAdjustedR2OverR2) {
  EXPECT_DOUBLE_EQ(fit_share(0.2, 501, 100), 0.0);   // 1 − 0.8·500/400 = 0
  EXPECT_DOUBLE_EQ(fit_share(0.5, 501, 100), 0.75);  // 1 − 0.5·500/400 = 0.375
  EXPECT_DOUBLE_EQ(fit_share(0.1, 501, 100), 0.0);
  EXPECT_DOUBLE_EQ(fit_share(1, 501, 100), 1.0);
  EXPECT_DOUBLE_EQ(fit_share(0.9, 403, 100), 0.0);  // fewer than four tokens an input
  EXPECT_NEAR(fit_share(0.5, 1e8, 100), 1.0, 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Hessians, StreamTargetOf, testing::Bool(),
                         [](const auto& which) { return which.param ? "Spread" : "Whole"; });

TEST(RelativeDistance, IsThatOfTheDefinition) {
  SelfCollectives comm;
  const auto backend = make_cpu_backend(1);
  const Matrix<float> a(tokens, 3, 1.5F);
  const Matrix<float> b(tokens, 3, -2.0F);
  EXPECT_DOUBLE_EQ(
      relative_distance(comm, *backend, shard_of_samples(), samples, a.cview(), b.cview()), 1.75);
  EXPECT_EQ(relative_distance(comm, *backend, shard_of_samples(), samples, b.cview(), b.cview()),
            0.0);
}

}  // namespace
}  // namespace quip::stream_target_test
