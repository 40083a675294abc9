// Every rounding method against its definition in fp64, against splits, and against bad Hessians.
#include "support/naive_rounders.hpp"
#include "support/round_tile.hpp"
#include "support/scalar_options.hpp"
#include <gtest/gtest.h>
#include <omp.h>

#include "quip/core/error.hpp"
#include "quip/quant/layer.hpp"

namespace quip::rounders_test {
namespace {

constexpr float top = 7.0F;
LayerOptions plain(Method method) {
  LayerOptions options = scalar_options();
  options.processing = Processing::baseline;
  options.bits = 3;
  options.method = method;
  return options;
}

/// Grid coordinates [rows × n] that reach a little beyond both ends of 0 … top.
Matrix<float> coordinates(index_t rows, index_t n, std::uint64_t key) {
  const RandomStream random(key);
  Matrix<float> x(rows, n);
  for (index_t i = 0; i < x.size(); ++i) {
    x.data()[i] = 3.5F + 1.8F * static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
  }
  return x;
}

struct Rounded {
  Matrix<float> levels;  ///< [rows × n], columns in their own order
  std::vector<double> loss;
  int passes = 0;
};

/// The rows of `x` in one tile (at most RowTiles::most_lanes), through the method's kernels.
Rounded round_rows_of(const Matrix<float>& x, const PreparedLayer& layer,
                      const LayerOptions& options) {
  const index_t n = x.cols();
  const index_t lanes =
      (x.rows() + RowTiles::lane_unit - 1) / RowTiles::lane_unit * RowTiles::lane_unit;
  Matrix<float> tile(n, lanes, 0.0F);
  const auto column = [&](index_t k) { return layer.order.empty() ? k : layer.order[at(k)]; };
  for (index_t k = 0; k < n; ++k) {
    for (index_t r = 0; r < x.rows(); ++r) tile(k, r) = x(r, column(k));
  }
  RoundingTile rounding = unit_tile(tile.cview(), top, x.rows());
  Rounded out{Matrix<float>(x.rows(), n), {}, 0};
  out.passes = round_tile(*make_rounder(options), layer, rounding);
  out.loss = rounding.math->fetched(rounding.loss);
  for (index_t k = 0; k < n; ++k) {
    for (index_t r = 0; r < x.rows(); ++r) out.levels(r, column(k)) = rounding.q(k, r);
  }
  return out;
}

PreparedLayer prepare(const Matrix<double>& h, const LayerOptions& options) {
  const Matrix<float> w = test::gaussian_weights(4, h.rows(), 99);
  return prepare_layer(w.cview(), test::copy_of(h), options, "test");
}

std::vector<double> row_of(const Matrix<float>& x, index_t r) {
  return {x.row(r), x.row(r) + x.cols()};
}

/// The levels of a row are those of the definition, or part from them at a near tie: at the first
/// column, in the order of rounding, that differs, the definition's target is within `tie` of a
/// boundary. Returns whether they part.
bool parts_at_a_tie(const test::NaiveRow& naive, const float* levels,
                    const std::vector<index_t>& order, double tie = 1e-3) {
  const auto first = std::find_if(order.begin(), order.end(), [&](index_t column) {
    return naive.levels[at(column)] != levels[column];
  });
  if (first == order.end()) return false;
  const double target = naive.targets[at(*first)];
  EXPECT_NEAR(target - std::floor(target), 0.5, tie) << "column " << *first;
  return true;
}

std::vector<index_t> reversed(std::vector<index_t> order) {
  std::reverse(order.begin(), order.end());
  return order;
}

class RounderSizes : public testing::TestWithParam<index_t> {
 protected:
  static constexpr index_t rows = 37;
  const index_t n_ = GetParam();
  const Matrix<double> h_ = test::correlated_hessian(n_, 2 * n_ + 5, 1);
  const Matrix<double> hd_ = test::damped(h_, 0.01);
  const Matrix<float> x_ = coordinates(rows, n_, 2);

  /// fp32 feedback errs by about 1e-6 in a target: of 37·300 targets hardly one is that close to a
  /// boundary, so a row in ten is ample.
  void expect_levels(const LayerOptions& options, const Matrix<double>& feedback,
                     const std::vector<index_t>& order) const {
    const Rounded out = round_rows_of(x_, prepare(h_, options), options);
    int parted = 0;
    for (index_t r = 0; r < rows; ++r) {
      const auto naive = test::naive_feedback(row_of(x_, r), feedback, top, order);
      parted += parts_at_a_tie(naive, out.levels.row(r), reversed(order)) ? 1 : 0;
    }
    EXPECT_LE(parted, rows / 10);
  }
};
INSTANTIATE_TEST_SUITE_P(Awkward, RounderSizes,
                         testing::Values<index_t>(1, 2, 31, 127, 128, 129, 300));

TEST_P(RounderSizes, NearestIsNearest) {
  const Rounded out =
      round_rows_of(x_, prepare(h_, plain(Method::nearest)), plain(Method::nearest));
  for (index_t i = 0; i < x_.size(); ++i) {
    EXPECT_EQ(out.levels.data()[i], std::clamp(std::floor(x_.data()[i] + 0.5F), 0.0F, top));
  }
}

TEST_P(RounderSizes, LdlqFollowsItsDefinitionInBothOrders) {
  LayerOptions options = plain(Method::ldlq);
  const std::vector<index_t> natural = test::natural_order(n_);
  expect_levels(options, test::ldl_feedback(hd_), natural);
  options.order = ColumnOrder::forward;
  const std::vector<index_t> forward = reversed(natural);
  expect_levels(options, test::ldl_feedback(test::reordered(hd_, forward)), forward);
}

TEST_P(RounderSizes, SortedLdlqTakesTheLargestDiagonalFirst) {
  LayerOptions options = plain(Method::ldlq_rg);
  options.passes = 0;
  const std::vector<index_t> order = test::ascending_order(hd_);
  expect_levels(options, test::ldl_feedback(test::reordered(hd_, order)), order);
}

TEST_P(RounderSizes, OptqFollowsItsDefinitionInBothOrders) {
  LayerOptions options = plain(Method::optq);
  for (const bool act_order : {false, true}) {
    options.act_order = act_order;
    const std::vector<index_t> order =
        act_order ? reversed(test::ascending_order(hd_)) : test::natural_order(n_);
    const Matrix<double> inverses = test::obq_rows(test::reordered(hd_, order));
    const Rounded out = round_rows_of(x_, prepare(h_, options), options);
    int parted = 0;
    for (index_t r = 0; r < rows; ++r) {
      const auto naive = test::naive_optq(row_of(x_, r), inverses, top, order);
      parted += parts_at_a_tie(naive, out.levels.row(r), order) ? 1 : 0;
    }
    EXPECT_LE(parted, rows / 10);
  }
}

TEST_P(RounderSizes, LdlAdmmFollowsItsDefinition) {
  const std::vector<index_t> order = test::ascending_order(hd_);
  const Matrix<double> z = test::naive_admm(test::reordered(hd_, order), 0.1, 100);
  expect_levels(plain(Method::ldl_admm), test::admm_feedback(z), order);
}

// Several passes round a column more than once, and which pass met a tie is not to be seen: rows
// are compared whole, and few may differ.
TEST_P(RounderSizes, GreedyPassesFollowTheirDefinition) {
  const std::vector<index_t> order = test::ascending_order(hd_);
  const Matrix<double> feedback = test::ldl_feedback(test::reordered(hd_, order));
  for (const Method method : {Method::greedy, Method::ldlq_rg}) {
    for (const Clamp clamp : {Clamp::feedback, Clamp::pre}) {
      LayerOptions options = plain(method);
      options.clamp = clamp;
      options.passes = 3;
      Matrix<float> start = test::copy_of(x_);
      if (clamp == Clamp::pre) {
        for (float& value : start.span()) value = std::clamp(value, 0.0F, top);
      }
      const Rounded out = round_rows_of(start, prepare(h_, options), options);
      int differ = 0;
      for (index_t r = 0; r < rows; ++r) {
        const std::vector<double> w = row_of(start, r);
        const auto from =
            method == Method::greedy ? w : test::naive_feedback(w, feedback, top, order).levels;
        const auto expected = test::naive_greedy(w, from, hd_, top, order, 3, clamp);
        differ += std::equal(expected.begin(), expected.end(), out.levels.row(r)) ? 0 : 1;
      }
      EXPECT_LE(differ, rows / 10) << to_string(method) << ", clamp " << to_string(clamp);
    }
  }
}

// The losses that kernels add up on their way against (ŵ−x) H (ŵ−x)ᵀ of what they return. Five
// digits: fp32 products, and for LDLQ and OPTQ the factor's rounding as well.
TEST_P(RounderSizes, LossesAreThoseOfTheLevels) {
  for (const MethodTraits& traits : methods) {
    const Method method = traits.method;
    const LayerOptions options = plain(method);
    const Rounded out = round_rows_of(x_, prepare(h_, options), options);
    for (index_t r = 0; r < rows; ++r) {
      std::vector<double> error(at(n_));
      for (index_t j = 0; j < n_; ++j)
        error[at(j)] = static_cast<double>(out.levels(r, j)) - x_(r, j);
      const double expected = test::quadratic_form(error, hd_);
      EXPECT_NEAR(out.loss[at(r)], expected, 1e-4 * expected + 1e-9) << to_string(method);
    }
  }
}

// Coordinate descent cannot make the loss worse, and ends where no single step helps.
TEST(Greedy, StopsAtAFixedPoint) {
  const Matrix<double> h = test::correlated_hessian(60, 200, 3);
  const Matrix<double> hd = test::damped(h, 0.01);
  const Matrix<float> x = coordinates(20, 60, 4);
  LayerOptions options = plain(Method::ldlq);
  const Rounded before = round_rows_of(x, prepare(h, options), options);
  options.passes = 200;
  const Rounded after = round_rows_of(x, prepare(h, options), options);
  EXPECT_GT(after.passes, 1);
  EXPECT_LT(after.passes, 200);
  for (index_t r = 0; r < 20; ++r) {
    EXPECT_LE(after.loss[at(r)], before.loss[at(r)] * (1 + 1e-5));
    const auto again = test::naive_greedy(row_of(x, r), row_of(after.levels, r), hd, top,
                                          test::natural_order(60), 1, Clamp::feedback);
    EXPECT_EQ(again, row_of(after.levels, r));
  }
}

// The paper's equivalence theorem for the two fp32 kernels, on a Hessian of a real model.
TEST(Optq, KernelsOfBothAgreeOnARealHessian) {
  const Matrix<double> h = test::real_hessian();
  const Matrix<float> x = coordinates(96, h.rows(), 9);
  LayerOptions options = plain(Method::optq);
  const Rounded optq = round_rows_of(x, prepare(h, options), options);
  options = plain(Method::ldlq);
  options.order = ColumnOrder::forward;
  const Rounded ldlq = round_rows_of(x, prepare(h, options), options);
  int differ = 0;
  for (index_t r = 0; r < x.rows(); ++r) {
    differ += row_of(optq.levels, r) == row_of(ldlq.levels, r) ? 0 : 1;
  }
  EXPECT_LE(differ, 9);  // rows with a near tie
}

}  // namespace
}  // namespace quip::rounders_test
