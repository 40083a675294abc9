// Layers coded with a trellis: the feedback against block LDL in fp64, the loss against the stored
// weights, splits, padding and hostile weights.
#include <cmath>
#include <limits>
#include <vector>

#include "support/hessians.hpp"
#include "support/one_layer.hpp"
#include <gtest/gtest.h>
#include <omp.h>

#include "quip/comm/collectives.hpp"
#include "quip/core/dtype.hpp"
#include "quip/pipeline/round_layer.hpp"
#include "quip/quant/measure.hpp"
#include "quip/quant/trellis/decode.hpp"
#include "quip/quant/trellis/search.hpp"
#include "quip/quant/trellis/tile.hpp"

namespace quip::trellis_rounder_test {
namespace {

using trellis::tile_side;

LayerOptions with_trellis(int bits, Method method = Method::ldlq) {
  LayerOptions options;
  options.codebook = CodebookKind::trellis;
  options.bits = bits;
  options.method = method;
  options.seed = 42;
  return options;
}

StoredLayer quantize_whole(const Matrix<float>& w, const Matrix<double>& h,
                           const LayerOptions& options) {
  SelfCollectives self;
  const PreparedLayer prepared = prepare_layer(w.cview(), copy_of(h), options, "test");
  StoredLayer stored = round_layer(self, "test", w.cview(), prepared, options);
  validate(stored.layer, "test");
  return stored;
}

double loss_of(const QuantizedLinear& layer, const Matrix<float>& w, const Matrix<double>& h) {
  Matrix<float> delta = dequantize(layer);
  for (index_t i = 0; i < delta.size(); ++i) delta.data()[i] -= w.data()[i];
  return trace_loss(delta.cview(), h);
}

/// (L, D) of H = (L+I) D (L+I)ᵀ in blocks of 16, by definition.
struct BlockLdl {
  explicit BlockLdl(const Matrix<double>& h) : lower(h.rows(), h.rows(), 0.0) {
    const index_t n = h.rows();
    Matrix<double> rest = copy_of(h);
    for (index_t k = 0; k < n; k += tile_side) {
      // X D_k = the rows below: operations on columns that make the identity of D_k.
      Matrix<double> d(tile_side, tile_side);
      Matrix<double> x(n, tile_side, 0.0);
      for (index_t i = 0; i < tile_side; ++i) {
        for (index_t j = 0; j < tile_side; ++j) d(i, j) = rest(k + i, k + j);
      }
      for (index_t r = k + tile_side; r < n; ++r) {
        for (index_t j = 0; j < tile_side; ++j) x(r, j) = rest(r, k + j);
      }
      for (index_t p = 0; p < tile_side; ++p) {
        const double pivot = d(p, p);
        for (index_t j = 0; j < tile_side; ++j) {
          if (j == p) continue;
          const double factor = d(p, j) / pivot;
          for (index_t i = 0; i < tile_side; ++i) d(i, j) -= factor * d(i, p);
          for (index_t r = 0; r < n; ++r) x(r, j) -= factor * x(r, p);
        }
        for (index_t i = 0; i < tile_side; ++i) d(i, p) /= pivot;
        for (index_t r = 0; r < n; ++r) x(r, p) /= pivot;
      }
      for (index_t r = k + tile_side; r < n; ++r) {
        for (index_t j = 0; j < tile_side; ++j) lower(r, k + j) = x(r, j);
      }
      for (index_t r = k + tile_side; r < n; ++r) {
        for (index_t c = k + tile_side; c < n; ++c) {
          double sum = 0;
          for (index_t j = 0; j < tile_side; ++j) sum += lower(r, k + j) * rest(c, k + j);
          rest(r, c) -= sum;
        }
      }
    }
  }

  Matrix<double> lower;
};

TEST(TrellisRounder, FeedbackIsThatOfTheFactorInBlocks) {
  constexpr index_t n = 256;
  constexpr index_t rows = 128;
  const Matrix<float> w = random_weights(rows, n, 1);
  const Matrix<double> h = random_hessian(n, 600, 2);
  const LayerOptions options = with_trellis(3);
  const PreparedLayer layer = prepare_layer(w.cview(), copy_of(h), options, "test");
  const LayerTransforms transforms =
      make_transforms(TransformKind::hadamard_128, rows, n, layer.seed_u, layer.seed_v);
  const RowTiles tiles = transform_rows(w.cview(), layer, transforms, {0, rows});
  const RoundedRows rounded = round_rows(tiles, layer, options, 0);
  // H' from its scalar factor, in fp64.
  Matrix<double> full(n, n, 0.0);
  for (index_t b = 0; b < layer.factor.blocks(); ++b) {
    const MatrixView<const float> panel = layer.factor.panel(b);
    const index_t first = layer.factor.first_column(b);
    for (index_t i = 0; i < panel.rows; ++i) {
      for (index_t j = 0; j < std::min(panel.cols, i); ++j)
        full(first + i, first + j) = panel(i, j);
    }
  }
  Matrix<double> damped(n, n, 0.0);
  for (index_t i = 0; i < n; ++i) full(i, i) = 1;
  for (index_t i = 0; i < n; ++i) {
    for (index_t j = 0; j < n; ++j) {
      for (index_t k = 0; k <= std::min(i, j); ++k) {
        damped(i, j) += full(i, k) * layer.factor.diagonal[at(k)] * full(j, k);
      }
    }
  }
  const BlockLdl factor(damped);
  // Codes every tile anew from the targets that the stored values of later columns give.
  const auto search = trellis::make_tile_search(options.trellis, options.bits);
  const auto workspace = search->workspace();
  const index_t across = n / tile_side;
  Matrix<float> coded(rows, n);
  std::vector<float> steps(trellis::tile_steps);
  const index_t bytes = 2 * trellis::packed_words(options.bits);
  for (index_t t = 0; t < rows / tile_side * across; ++t) {
    trellis::decode_tiles(options.trellis, options.bits, rounded.layer.codes.data() + t * bytes, 1,
                          steps.data());
    trellis::from_steps(steps.data(), coded.view()
                                          .middle_rows(t / across * tile_side, tile_side)
                                          .middle_cols(t % across * tile_side, tile_side));
  }
  const auto weight = [&](index_t r, index_t k) {
    const index_t t = r / tiles.tile(0).cols;
    return static_cast<double>(tiles.tile(t)(k, r - tiles.rows_of(t).first));
  };
  int same = 0;
  double error = 0;
  double again = 0;
  for (index_t t = 0; t < rows / tile_side * across; ++t) {
    const index_t first_row = t / across * tile_side;
    const index_t first = t % across * tile_side;
    Matrix<float> target(tile_side, tile_side);
    for (index_t r = 0; r < tile_side; ++r) {
      for (index_t k = 0; k < tile_side; ++k) {
        double sum = weight(first_row + r, first + k);
        for (index_t j = first + tile_side; j < n; ++j) {
          sum += (weight(first_row + r, j) - coded(first_row + r, j)) * factor.lower(j, first + k);
        }
        target(r, k) = static_cast<float>(sum);
      }
    }
    trellis::to_steps(target.cview(), steps.data());
    std::vector<std::uint16_t> states(trellis::tile_steps);
    search->encode(steps.data(), 1, *workspace, states.data());
    std::vector<float> values(trellis::tile_steps);
    trellis::decode_states(options.trellis, states.data(), trellis::tile_steps, values.data());
    Matrix<float> tile(tile_side, tile_side);
    trellis::from_steps(values.data(), tile.view());
    bool equal = true;
    for (index_t r = 0; r < tile_side; ++r) {
      for (index_t k = 0; k < tile_side; ++k) {
        const float stored = coded(first_row + r, first + k);
        equal = equal && stored == tile(r, k);
        error += std::pow(stored - target(r, k), 2);
        again += std::pow(tile(r, k) - target(r, k), 2);
      }
    }
    same += equal ? 1 : 0;
  }
  // A target that fp32 moves over the edge between two integers may change a tile, and no more.
  EXPECT_GE(same, rows / tile_side * across * 9 / 10);
  EXPECT_NEAR(error, again, 1e-3 * again);
}

struct Sides {
  index_t rows;
  index_t cols;
  int bits;
};

class TrellisSizes : public testing::TestWithParam<Sides> {};
INSTANTIATE_TEST_SUITE_P(Awkward, TrellisSizes,
                         testing::Values(Sides{256, 128, 2}, Sides{1, 1, 2}, Sides{15, 130, 4},
                                         Sides{130, 15, 1}, Sides{1, 200, 8}, Sides{128, 1, 3}));

TEST_P(TrellisSizes, ReportedLossIsThatOfTheStoredWeights) {
  const auto [rows, cols, bits] = GetParam();
  const Matrix<float> w = random_weights(rows, cols, 3);
  const Matrix<double> h = random_hessian(cols, 2 * cols + 20, 4);
  for (const Method method : {Method::nearest, Method::ldlq}) {
    const StoredLayer stored = quantize_whole(w, h, with_trellis(bits, method));
    EXPECT_EQ(stored.layer.outputs(), rows);
    EXPECT_EQ(stored.layer.inputs(), cols);
    EXPECT_EQ(stored.statistics.dead_channels, 0);
    const double loss = loss_of(stored.layer, w, h);
    const double reference = trace_loss(w.cview(), h);
    EXPECT_NEAR(stored.statistics.proxy_loss, loss, 2e-3 * loss + 1e-7 * reference);
    EXPECT_NEAR(stored.statistics.relative_proxy_loss, loss / reference,
                2e-3 * loss / reference + 1e-7);
    EXPECT_LT(loss, reference);
  }
}

// Scalar layers with output scales are measured in the same way, whatever the order of columns.
TEST(OutputScales, ReportedLossIsThatOfTheStoredWeightsInAnyOrder) {
  const Matrix<float> w = random_weights(70, 160, 13);
  const Matrix<double> h = random_hessian(160, 400, 14);
  const double reference = trace_loss(w.cview(), h);
  for (const Method method : {Method::ldlq, Method::ldlq_rg, Method::optq, Method::ldl_admm}) {
    for (const TransformKind transform : {TransformKind::hadamard, TransformKind::hadamard_128}) {
      LayerOptions options;
      options.codebook = CodebookKind::scalar;
      options.method = method;
      options.transform = transform;
      const StoredLayer stored = quantize_whole(w, h, options);
      const double loss = loss_of(stored.layer, w, h);
      EXPECT_TRUE(stored.layer.output_scaled);
      EXPECT_NEAR(stored.statistics.proxy_loss, loss, 2e-3 * loss + 1e-7 * reference);
      EXPECT_LT(loss, 0.1 * reference);
    }
  }
}

TEST(TrellisRounder, AnySplitOfRowsAndThreadsGivesTheSameBits) {
  const Matrix<float> w = random_weights(128, 128, 5);
  const Matrix<double> h = random_hessian(128, 300, 6);
  const LayerOptions options = with_trellis(2);
  omp_set_num_threads(1);
  const Outcome whole = quantize(w, h, options);
  EXPECT_EQ(digest_of(quantize(w, h, options, 2).layer), digest_of(whole.layer));
  omp_set_num_threads(3);
  EXPECT_EQ(digest_of(quantize(w, h, options, 8).layer), digest_of(whole.layer));
  omp_set_num_threads(1);
}

TEST(TrellisRounder, FeedbackPaysOff) {
  const Matrix<float> w = random_weights(128, 256, 7);
  const Matrix<double> h = random_hessian(256, 600, 8);
  const auto loss = [&](Method method) {
    return quantize_whole(w, h, with_trellis(2, method)).statistics.relative_proxy_loss;
  };
  EXPECT_LT(loss(Method::ldlq), 0.8 * loss(Method::nearest));
}

TEST(TrellisRounder, RefitNeverAddsLoss) {
  for (const double slope : {-0.3, -1e-4, 0.0, 1e-4, 0.3}) {
    const RowNorms norms{1.0, 1.0 + 0.02 - 2 * slope, 0.02};
    std::uint16_t scale = to_f16(-0.37F);
    const RowLoss loss = refit(norms, scale);
    EXPECT_LE(loss.loss, norms.difference);
    const double c = from_f16(scale) / double{from_f16(to_f16(-0.37F))};
    EXPECT_NEAR(loss.loss, norms.difference + 2 * (c - 1) * slope + (c - 1) * (c - 1), 1e-12);
  }
}

TEST(TrellisRounder, HostileRowsAreCoded) {
  constexpr index_t rows = 120;
  constexpr index_t cols = 125;
  const Matrix<double> h = random_hessian(cols, 300, 10);
  const auto relative_loss = [&](auto change) {
    Matrix<float> w = random_weights(rows, cols, 9);
    change(w);
    const StoredLayer stored = quantize_whole(w, h, with_trellis(2));
    const Matrix<float> restored = dequantize(stored.layer);
    EXPECT_EQ(first_nonfinite(restored.span()), -1);
    return loss_of(stored.layer, w, h) / std::max(trace_loss(w.cview(), h), 1e-30);
  };
  const double usual = relative_loss([](auto&) {});
  EXPECT_LT(usual, 0.07);
  EXPECT_LT(relative_loss([](auto& w) { std::fill_n(w.row(7), cols, 0.0F); }), 1.1 * usual);
  EXPECT_LT(relative_loss([](auto& w) { std::fill_n(w.row(7), cols, 0.04F); }), 1.2 * usual);
  EXPECT_LT(relative_loss([](auto& w) {
              for (index_t j = 0; j < cols; ++j) w(7, j) = j % 2 == 0 ? 0.3F : -0.3F;
            }),
            1.2 * usual);
  EXPECT_LT(relative_loss([](auto& w) { w(7, 3) = 500.0F; }), usual);
  EXPECT_EQ(relative_loss([](auto& w) { std::fill_n(w.data(), w.size(), 0.0F); }), 0.0);
  // Rows and columns beyond what halves can tell apart.
  EXPECT_LT(relative_loss([](auto& w) {
              for (index_t j = 0; j < cols; ++j) w(7, j) *= 1e-6F;
            }),
            1.1 * usual);
  EXPECT_LT(relative_loss([](auto& w) {
              for (index_t i = 0; i < w.size(); ++i) w.data()[i] *= 1e-7F;
            }),
            1.05 * usual);
}

TEST(TrellisRounder, DeadInputsAndBlindLayersAreCoded) {
  constexpr index_t n = 128;
  const Matrix<float> w = random_weights(128, n, 11);
  Matrix<double> h = random_hessian(n, 300, 12);
  for (const index_t j : {0, 77}) {
    for (index_t i = 0; i < n; ++i) h(i, j) = h(j, i) = 0;
  }
  const StoredLayer some = quantize_whole(w, h, with_trellis(2));
  EXPECT_EQ(some.statistics.dead_channels, 2);
  EXPECT_LT(some.statistics.relative_proxy_loss, 0.07);
  const Matrix<double> nothing(n, n, 0.0);
  const StoredLayer blind = quantize_whole(w, nothing, with_trellis(2));
  const Matrix<float> restored = dequantize(blind.layer);
  double error = 0;
  double energy = 0;
  for (index_t i = 0; i < w.size(); ++i) {
    error += std::pow(restored.data()[i] - w.data()[i], 2);
    energy += std::pow(w.data()[i], 2);
  }
  EXPECT_LT(error, 0.08 * energy);
  EXPECT_TRUE(std::isnan(blind.statistics.relative_proxy_loss));
}

TEST(Half, RoundsToTheNearestTiesToEven) {
  for (std::uint32_t bits = 0; bits < 0x7c00; ++bits) {
    const float value = from_f16(static_cast<std::uint16_t>(bits));
    ASSERT_EQ(to_f16(value), bits);
    ASSERT_EQ(to_f16(-value), bits | 0x8000U);
    const float next = from_f16(static_cast<std::uint16_t>(bits + 1));
    if (bits + 1 == 0x7c00) continue;
    const float middle = value + (next - value) / 2;
    ASSERT_EQ(to_f16(middle), bits % 2 == 0 ? bits : bits + 1) << value;
    ASSERT_EQ(to_f16(std::nextafter(middle, 0.0F)), bits);
    ASSERT_EQ(to_f16(std::nextafter(middle, 1e9F)), bits + 1);
  }
  EXPECT_EQ(to_f16(65519.0F), 0x7bff);
  EXPECT_EQ(to_f16(65520.0F), 0x7c00);
  EXPECT_EQ(to_f16(-std::numeric_limits<float>::infinity()), 0xfc00);
  EXPECT_GT(to_f16(std::numeric_limits<float>::quiet_NaN()) & 0x3ff, 0);
}

}  // namespace
}  // namespace quip::trellis_rounder_test
