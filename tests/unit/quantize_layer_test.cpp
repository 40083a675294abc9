// One layer from weights and Hessian to codes and back, against the definitions.
#include <cmath>
#include <optional>
#include <vector>

#include "support/one_layer.hpp"
#include "support/scalar_options.hpp"
#include <gtest/gtest.h>
#include <omp.h>

#include "quip/core/error.hpp"
#include "quip/quant/code/grid.hpp"

namespace quip::quantize_layer_test {
namespace {

struct Case {
  Processing processing;
  TransformKind transform;
  Method method;
  Clamp clamp;
  int bits;
  std::optional<bool> rescaling = {};
  std::optional<GridKind> grid = {};
  bool symmetric = false;
  index_t group_size = 0;
};

struct Shape {
  index_t rows;
  index_t cols;
};

class QuantizeLayer : public testing::TestWithParam<Case> {
 protected:
  /// Returns `shape`, or for hadamard_128, whose blocks it does not suit, one of two and three.
  static Shape suited(Shape shape) {
    return GetParam().transform == TransformKind::hadamard_128 ? Shape{256, 384} : shape;
  }
  static LayerOptions options_of(const Case& c) {
    LayerOptions options = scalar_options();
    options.processing = c.processing;
    options.transform = c.transform;
    options.method = c.method;
    options.clamp = c.clamp;
    options.bits = c.bits;
    options.rescaling = c.rescaling;
    options.grid_kind = c.grid;
    options.symmetric = c.symmetric;
    options.group_size = c.group_size;
    options.seed = 42;
    return options;
  }
};

// The reported loss comes out of the rounding itself, in transformed and damped coordinates. It
// must be tr((Ŵ−W) H (Ŵ−W)ᵀ) of the weights that are stored, with the undamped H. fp32 arithmetic
// of the transform bounds the agreement.
TEST_P(QuantizeLayer, ReportedLossIsThatOfTheStoredWeights) {
  const auto [rows, cols] = suited({70, 160});
  const Matrix<float> w = random_weights(rows, cols, 1);
  const Matrix<double> h = random_hessian(cols, 400, 2);
  const Outcome out = quantize(w, h, options_of(GetParam()));
  const Matrix<float> restored = dequantize(out.layer);
  Matrix<float> delta(rows, cols);
  for (index_t i = 0; i < delta.size(); ++i) delta.data()[i] = restored.data()[i] - w.data()[i];
  EXPECT_NEAR(out.loss, trace_loss(delta.cview(), h), 2e-3 * out.loss + 1e-7 * out.reference);
  EXPECT_NEAR(out.reference, trace_loss(w.cview(), h), 1e-4 * out.reference);
}

TEST_P(QuantizeLayer, AnySplitOfRowsAndThreadsGivesTheSameBits) {
  const auto [rows, cols] = suited({97, 136});
  const Matrix<float> w = random_weights(rows, cols, 3);
  const Matrix<double> h = random_hessian(cols, 300, 4);
  const LayerOptions options = options_of(GetParam());
  omp_set_num_threads(1);
  const std::string expected = digest_of(quantize(w, h, options).layer);
  for (const int parts : {2, 3, 7}) {
    omp_set_num_threads(1 + parts % 3);
    EXPECT_EQ(digest_of(quantize(w, h, options, parts).layer), expected) << parts << " parts";
  }
  omp_set_num_threads(1);
}

INSTANTIATE_TEST_SUITE_P(
    Options, QuantizeLayer,
    testing::Values(
        Case{Processing::incoherence, TransformKind::kronecker, Method::ldlq, Clamp::feedback, 2},
        Case{Processing::incoherence, TransformKind::kronecker, Method::ldlq, Clamp::pre, 2},
        Case{Processing::incoherence, TransformKind::none, Method::ldlq, Clamp::feedback, 3},
        Case{Processing::incoherence, TransformKind::kronecker, Method::nearest, Clamp::pre, 4},
        Case{Processing::baseline, TransformKind::none, Method::ldlq, Clamp::feedback, 2},
        Case{Processing::baseline, TransformKind::none, Method::ldlq, Clamp::pre, 3},
        Case{Processing::baseline, TransformKind::none, Method::nearest, Clamp::pre, 4},
        Case{Processing::baseline, TransformKind::none, Method::ldlq, Clamp::feedback, 8}));

// Every step on its own, and steps of one bundle inside the other.
INSTANTIATE_TEST_SUITE_P(
    Steps, QuantizeLayer,
    testing::Values(
        Case{Processing::incoherence, TransformKind::kronecker_blocked, Method::ldlq,
             Clamp::feedback, 2},
        Case{Processing::incoherence, TransformKind::kronecker_nopermute, Method::ldlq,
             Clamp::feedback, 3},
        Case{Processing::incoherence, TransformKind::hadamard, Method::ldlq, Clamp::feedback, 2},
        Case{Processing::incoherence, TransformKind::hadamard, Method::nearest, Clamp::pre, 4},
        Case{Processing::incoherence, TransformKind::hadamard_128, Method::ldlq, Clamp::feedback,
             2},
        Case{Processing::incoherence, TransformKind::dense, Method::ldlq, Clamp::feedback, 2},
        Case{Processing::incoherence, TransformKind::kronecker, Method::ldlq, Clamp::feedback, 2,
             false},
        Case{Processing::incoherence, TransformKind::kronecker, Method::ldlq, Clamp::feedback, 3,
             true, GridKind::minmax},
        Case{Processing::incoherence, TransformKind::hadamard, Method::ldlq, Clamp::pre, 3, true,
             GridKind::minmax, true},
        Case{Processing::baseline, TransformKind::kronecker, Method::ldlq, Clamp::feedback, 2},
        Case{Processing::baseline, TransformKind::none, Method::ldlq, Clamp::feedback, 3, true},
        Case{Processing::baseline, TransformKind::none, Method::ldlq, Clamp::pre, 4, false,
             GridKind::incoherent},
        Case{Processing::baseline, TransformKind::none, Method::nearest, Clamp::feedback, 4, false,
             GridKind::minmax, true}));

// Groups of columns: as many as a block of the factor, fewer, more, and one longer than the row.
// Those of optq are dynamic.
INSTANTIATE_TEST_SUITE_P(Groups, QuantizeLayer,
                         testing::Values(Case{Processing::baseline,
                                              TransformKind::none,
                                              Method::ldlq,
                                              Clamp::feedback,
                                              2,
                                              {},
                                              {},
                                              false,
                                              128},
                                         Case{Processing::baseline,
                                              TransformKind::none,
                                              Method::ldlq,
                                              Clamp::pre,
                                              3,
                                              {},
                                              {},
                                              false,
                                              24},
                                         Case{Processing::baseline,
                                              TransformKind::none,
                                              Method::nearest,
                                              Clamp::feedback,
                                              4,
                                              {},
                                              {},
                                              true,
                                              32},
                                         Case{Processing::baseline,
                                              TransformKind::none,
                                              Method::ldlq,
                                              Clamp::feedback,
                                              3,
                                              {},
                                              {},
                                              false,
                                              1000},
                                         Case{Processing::baseline,
                                              TransformKind::none,
                                              Method::optq,
                                              Clamp::feedback,
                                              3,
                                              {},
                                              {},
                                              false,
                                              24},
                                         Case{Processing::baseline,
                                              TransformKind::none,
                                              Method::optq,
                                              Clamp::feedback,
                                              4,
                                              {},
                                              {},
                                              true,
                                              128},
                                         Case{Processing::incoherence,
                                              TransformKind::hadamard,
                                              Method::optq,
                                              Clamp::feedback,
                                              2,
                                              {},
                                              GridKind::minmax,
                                              false,
                                              56},
                                         Case{Processing::incoherence,
                                              TransformKind::hadamard,
                                              Method::ldlq,
                                              Clamp::feedback,
                                              2,
                                              {},
                                              GridKind::minmax,
                                              true,
                                              64}));

TEST(Ldlq, BeatsNearestOnCorrelatedInputs) {
  const Matrix<float> w = random_weights(64, 128, 7);
  const Matrix<double> h = random_hessian(128, 256, 8);
  LayerOptions options = scalar_options();
  const double ldlq = quantize(w, h, options).loss;
  options.method = Method::nearest;
  EXPECT_LT(ldlq, 0.8 * quantize(w, h, options).loss);
}

TEST(RhoSearch, FindsALowerLossThanThePaperAndItsNeighbours) {
  const Matrix<float> w = random_weights(96, 128, 10);
  const Matrix<double> h = random_hessian(128, 256, 11);
  LayerOptions options = scalar_options();
  for (const int bits : {2, 3, 4}) {
    options.bits = bits;
    options.rho.reset();
    const Outcome searched = quantize(w, h, options);
    for (const double rho : {0.7, 1.0, 2.4, 5.0}) {
      options.rho = rho;
      // The search sees a sample of the rows: allow it 2 %.
      EXPECT_LE(searched.loss, 1.02 * quantize(w, h, options).loss) << bits << " bits, " << rho;
    }
  }
}

TEST(PrepareLayer, DeadInputsAreCountedAndCostNothing) {
  constexpr index_t n = 64;
  Matrix<double> h = random_hessian(n, 128, 12);
  for (index_t j = 0; j < n; ++j) h(5, j) = h(j, 5) = 0.0;
  const Matrix<float> w = random_weights(32, n, 13);
  for (const Processing processing : {Processing::baseline, Processing::incoherence}) {
    LayerOptions options = scalar_options();
    options.processing = processing;
    options.bits = 8;
    const PreparedLayer prepared = prepare_layer(w.cview(), copy_of(h), options, "test");
    EXPECT_EQ(prepared.dead_channels, 1);
    const Outcome out = quantize(w, h, options);
    EXPECT_LT(out.loss, 1e-3 * out.reference);
    EXPECT_GE(out.loss, -1e-6 * out.reference);
  }
}

// What H says (almost) nothing about must come back near the weights, not as noise over a tiny D̃.
TEST(PrepareLayer, WeightsOfUnseenInputsComeBackInTheirSize) {
  constexpr index_t n = 96;
  constexpr index_t dead = 20;
  constexpr index_t unseen = 30;  // with those whose activations are 10⁻⁵ of what they would be
  Matrix<double> h = random_hessian(n, 300, 17);
  for (index_t i = 0; i < unseen; ++i) {
    for (index_t j = 0; j < n; ++j) {
      h(i, j) *= i < dead ? 0.0 : 1e-5;
      h(j, i) *= i < dead ? 0.0 : 1e-5;
    }
  }
  const Matrix<float> w = random_weights(64, n, 18);
  for (const TransformKind transform : {TransformKind::kronecker, TransformKind::hadamard}) {
    LayerOptions options = scalar_options();
    options.transform = transform;
    const Matrix<float> restored = dequantize(quantize(w, h, options).layer);
    for (index_t j = 0; j < unseen; ++j) {
      double change = 0;
      double norm = 0;
      for (index_t i = 0; i < w.rows(); ++i) {
        change += std::pow(static_cast<double>(restored(i, j)) - w(i, j), 2);
        norm += std::pow(static_cast<double>(w(i, j)), 2);
      }
      EXPECT_LT(change, 2.25 * norm) << to_string(transform) << ", input " << j;
    }
  }
}

TEST(PrepareLayer, AnIndefiniteHessianIsAnErrorThatNamesTheLayer) {
  Matrix<double> h = random_hessian(32, 64, 14);
  double trace = 0;
  for (index_t j = 0; j < 32; ++j) trace += h(j, j);
  h(3, 3) = -0.9 * trace;  // beyond what the largest damping, 100 × the mean, can lift
  const Matrix<float> w = random_weights(8, 32, 15);
  LayerOptions options = scalar_options();
  options.processing = Processing::baseline;
  try {
    const PreparedLayer prepared = prepare_layer(w.cview(), std::move(h), options, "block.7.down");
    FAIL() << "factorised an indefinite matrix with λ = " << prepared.damping;
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("block.7.down"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("leading minor 4"), std::string::npos) << error.what();
  }
}

TEST(PrepareLayer, ASingularHessianWithoutDampingIsDampedAndSaysSo) {
  Matrix<double> h(16, 16, 1.0);  // rank one
  const Matrix<float> w = random_weights(8, 16, 16);
  LayerOptions options = scalar_options();
  options.processing = Processing::baseline;
  options.damping = 0.0;
  const PreparedLayer prepared = prepare_layer(w.cview(), std::move(h), options, "test");
  EXPECT_GT(prepared.damping_tries, 1);
  EXPECT_GT(prepared.damping, 0.0);
}

}  // namespace
}  // namespace quip::quantize_layer_test
