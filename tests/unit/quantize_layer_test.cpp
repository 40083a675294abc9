// One layer from weights and Hessian to codes and back, against the definitions.
#include <cmath>
#include <optional>
#include <vector>

#include <gtest/gtest.h>
#include <omp.h>

#include "quip/core/error.hpp"
#include "quip/core/rng.hpp"
#include "quip/quant/dequantize.hpp"
#include "quip/quant/grid.hpp"
#include "quip/quant/layer.hpp"

namespace quip {
namespace {

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

Matrix<float> random_weights(index_t m, index_t n, std::uint64_t key) {
  const RandomStream random(key);
  Matrix<float> w(m, n);
  for (index_t i = 0; i < m * n; ++i) {
    w.data()[i] = 0.05F * static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
  }
  return w;
}

/// Correlated inputs with a decaying spectrum, as activations have.
Matrix<double> random_hessian(index_t n, index_t tokens, std::uint64_t key) {
  const RandomStream random(key);
  Matrix<double> x(tokens, n);
  for (index_t t = 0; t < tokens; ++t) {
    double previous = 0;
    for (index_t j = 0; j < n; ++j) {
      const double fresh = random.normal(static_cast<std::uint64_t>(t * n + j));
      previous = 0.8 * previous + fresh;
      x(t, j) = previous / (1.0 + 0.05 * static_cast<double>(j));
    }
  }
  Matrix<double> h(n, n, 0.0);
  for (index_t t = 0; t < tokens; ++t) {
    for (index_t i = 0; i < n; ++i) {
      for (index_t j = 0; j < n; ++j) h(i, j) += x(t, i) * x(t, j) / static_cast<double>(tokens);
    }
  }
  return h;
}

Matrix<double> copy_of(const Matrix<double>& h) {
  Matrix<double> out(h.rows(), h.cols());
  std::copy_n(h.data(), h.size(), out.data());
  return out;
}

/// tr(Δ H Δᵀ) from the definition.
double trace_loss(MatrixView<const float> delta, const Matrix<double>& h) {
  double sum = 0;
  for (index_t r = 0; r < delta.rows; ++r) {
    for (index_t i = 0; i < delta.cols; ++i) {
      double row = 0;
      for (index_t j = 0; j < delta.cols; ++j) row += h(i, j) * delta(r, j);
      sum += row * delta(r, i);
    }
  }
  return sum;
}

struct Outcome {
  QuantizedLinear layer;
  double loss = 0;  ///< as the program reports it, in H's units
  double reference = 0;
};

Outcome quantize(const Matrix<float>& w, const Matrix<double>& h, const LayerOptions& options,
                 int parts = 1) {
  const PreparedLayer prepared = prepare_layer(w.cview(), copy_of(h), options, "test");
  const LayerTransforms transforms = make_transforms(options.effective_transform(), w.rows(),
                                                     w.cols(), prepared.seed_u, prepared.seed_v);
  std::vector<RowTiles> tiles;
  for (int part = 0; part < parts; ++part) {
    tiles.push_back(
        transform_rows(w.cview(), prepared, transforms, share_of(w.rows(), part, parts)));
  }
  double rho = options.rho.value_or(0.0);
  if (!options.rho && options.grid() == GridKind::incoherent) {
    RhoSearch search(w.rows(), options.bits);
    while (!search.candidates().empty()) {
      std::vector<double> sum;
      for (const RowTiles& tile : tiles) {
        const std::vector<double> losses = search.evaluate(tile, prepared, options);
        sum.resize(losses.size(), 0.0);
        for (std::size_t i = 0; i < losses.size(); ++i) sum[i] += losses[i];
      }
      search.advance(sum);
    }
    rho = search.result();
  }
  Outcome out;
  out.layer.rows = w.rows();
  out.layer.cols = w.cols();
  out.layer.bits = options.bits;
  out.layer.grid = options.grid();
  out.layer.transform = options.effective_transform();
  out.layer.group_size = options.group_size;
  out.layer.symmetric = options.symmetric;
  out.layer.seed_u = prepared.seed_u;
  out.layer.seed_v = prepared.seed_v;
  out.layer.rescale = prepared.rescale;
  if (options.grid() == GridKind::incoherent) out.layer.scale = {incoherent_scale(prepared, rho)};
  for (const RowTiles& tile : tiles) {
    const RoundedRows rows = round_rows(tile, prepared, options, rho);
    out.layer.codes.insert(out.layer.codes.end(), rows.codes.begin(), rows.codes.end());
    out.layer.scale.insert(out.layer.scale.end(), rows.scale.begin(), rows.scale.end());
    out.layer.zero.insert(out.layer.zero.end(), rows.zero.begin(), rows.zero.end());
    for (const RowLoss& row : rows.losses) {
      out.loss += row.loss * prepared.loss_unit;
      out.reference += row.reference * prepared.loss_unit;
    }
  }
  validate(out.layer, "test");
  return out;
}

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

class QuantizeLayer : public testing::TestWithParam<Case> {
 protected:
  static LayerOptions options_of(const Case& c) {
    LayerOptions options;
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
  const Matrix<float> w = random_weights(70, 160, 1);
  const Matrix<double> h = random_hessian(160, 400, 2);
  const Outcome out = quantize(w, h, options_of(GetParam()));
  const Matrix<float> restored = dequantize(out.layer);
  Matrix<float> delta(70, 160);
  for (index_t i = 0; i < delta.size(); ++i) delta.data()[i] = restored.data()[i] - w.data()[i];
  EXPECT_NEAR(out.loss, trace_loss(delta.cview(), h), 2e-3 * out.loss + 1e-7 * out.reference);
  EXPECT_NEAR(out.reference, trace_loss(w.cview(), h), 1e-4 * out.reference);
}

TEST_P(QuantizeLayer, AnySplitOfRowsAndThreadsGivesTheSameBits) {
  const Matrix<float> w = random_weights(97, 136, 3);
  const Matrix<double> h = random_hessian(136, 300, 4);
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
                                         Case{Processing::incoherence,
                                              TransformKind::hadamard,
                                              Method::ldlq,
                                              Clamp::feedback,
                                              2,
                                              {},
                                              GridKind::minmax,
                                              true,
                                              64}));

// LDLQ from its definition, column by column in fp64 with L in fp64: almost every code agrees
// (those within rounding of a boundary may fall to either side and pull others along).
TEST(Ldlq, FollowsItsDefinition) {
  constexpr index_t m = 40;
  constexpr index_t n = 150;
  const Matrix<float> w = random_weights(m, n, 5);
  const Matrix<double> h = random_hessian(n, 300, 6);
  LayerOptions options;
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
  LayerOptions options;
  options.processing = Processing::baseline;
  options.bits = 3;
  options.group_size = group_size;
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
  LayerOptions options;
  options.processing = Processing::baseline;
  options.bits = 3;
  options.group_size = 24;
  for (const Method method : {Method::nearest, Method::ldlq, Method::optq, Method::ldlq_rg,
                              Method::greedy, Method::ldl_admm}) {
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
  LayerOptions options;
  options.processing = Processing::baseline;
  options.bits = 3;
  const double row = quantize(w, h, options).loss;
  options.group_size = 32;
  EXPECT_LT(quantize(w, h, options).loss, 0.7 * row);
}

TEST(Ldlq, BeatsNearestOnCorrelatedInputs) {
  const Matrix<float> w = random_weights(64, 128, 7);
  const Matrix<double> h = random_hessian(128, 256, 8);
  LayerOptions options;
  const double ldlq = quantize(w, h, options).loss;
  options.method = Method::nearest;
  EXPECT_LT(ldlq, 0.8 * quantize(w, h, options).loss);
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
    LayerOptions options;
    options.processing = Processing::baseline;
    options.method = Method::nearest;
    options.bits = bits;
    const Matrix<float> restored = dequantize(quantize(w, random_hessian(n, 64, 9), options).layer);
    for (index_t i = 0; i < w.size(); ++i) EXPECT_EQ(restored.data()[i], w.data()[i]) << bits;
  }
}

TEST(RhoSearch, FindsALowerLossThanThePaperAndItsNeighbours) {
  const Matrix<float> w = random_weights(96, 128, 10);
  const Matrix<double> h = random_hessian(128, 256, 11);
  LayerOptions options;
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
    LayerOptions options;
    options.processing = processing;
    options.bits = 8;
    const PreparedLayer prepared = prepare_layer(w.cview(), copy_of(h), options, "test");
    EXPECT_EQ(prepared.dead_channels, 1);
    const Outcome out = quantize(w, h, options);
    EXPECT_LT(out.loss, 1e-3 * out.reference);
    EXPECT_GE(out.loss, -1e-6 * out.reference);
  }
}

TEST(PrepareLayer, AnIndefiniteHessianIsAnErrorThatNamesTheLayer) {
  Matrix<double> h = random_hessian(32, 64, 14);
  double trace = 0;
  for (index_t j = 0; j < 32; ++j) trace += h(j, j);
  h(3, 3) = -0.9 * trace;  // beyond what the largest damping, 100 × the mean, can lift
  const Matrix<float> w = random_weights(8, 32, 15);
  LayerOptions options;
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
  LayerOptions options;
  options.processing = Processing::baseline;
  options.damping = 0.0;
  const PreparedLayer prepared = prepare_layer(w.cview(), std::move(h), options, "test");
  EXPECT_GT(prepared.damping_tries, 1);
  EXPECT_GT(prepared.damping, 0.0);
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
  const MinmaxParameters p = fit_minmax(-1.0F, 2.0F, 2);
  EXPECT_FLOAT_EQ(p.scale, 1.0F);
  EXPECT_EQ(p.zero, 1);
  const MinmaxParameters zeros = fit_minmax(0.0F, 0.0F, 2);
  EXPECT_FLOAT_EQ(zeros.scale, 2.0F / 3.0F);
}

// [−1, 2] becomes [−2, 2] on 4 levels: steps of 4/3, zero is level 2.
TEST(MinmaxGrid, SymmetricHasZeroInItsMiddle) {
  const MinmaxParameters p = fit_symmetric(-1.0F, 2.0F, 2);
  EXPECT_FLOAT_EQ(p.scale, 4.0F / 3.0F);
  EXPECT_EQ(p.zero, 2);
  EXPECT_EQ(fit_symmetric(-3.0F, 0.0F, 4).zero, 8);
  EXPECT_FLOAT_EQ(fit_symmetric(-3.0F, 0.0F, 4).scale, 0.4F);
  EXPECT_FLOAT_EQ(fit_symmetric(0.0F, 0.0F, 2).scale, 2.0F / 3.0F);
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
}  // namespace quip
