// OPTQ beside LDLQ, whose codes it must give, and its dynamic groups against their definition.
#include <tuple>

#include "support/naive_rounders.hpp"
#include "support/one_layer.hpp"
#include "support/scalar_options.hpp"
#include <gtest/gtest.h>
#include <omp.h>

namespace quip::optq_test {
namespace {

constexpr index_t block = LowerPanels::block;

std::vector<double> row_of(const Matrix<float>& x, index_t r) {
  return {x.row(r), x.row(r) + x.cols()};
}

std::vector<index_t> reversed(std::vector<index_t> order) {
  std::reverse(order.begin(), order.end());
  return order;
}

LayerOptions grouped(Method method, index_t group_size, GroupFit groups) {
  LayerOptions options = scalar_options();
  options.processing = Processing::baseline;
  options.bits = 3;
  options.method = method;
  options.group_size = group_size;
  options.scale_type = ScaleType::fp32;
  if (group_size > 0) options.groups = groups;
  if (method == Method::ldlq) options.order = ColumnOrder::forward;
  return options;
}

std::vector<double> codes_of(const QuantizedLinear& layer, index_t r) {
  std::vector<std::uint8_t> codes(at(layer.cols));
  unpack_row(layer.codes.data() + r * layer.row_bytes(), layer.cols, layer.bits, codes.data());
  return {codes.begin(), codes.end()};
}

/// Rows of `layer` whose codes differ from those of `other`.
int rows_that_differ(const QuantizedLinear& layer, const QuantizedLinear& other) {
  int differ = 0;
  for (index_t r = 0; r < layer.rows; ++r) {
    differ += codes_of(layer, r) == codes_of(other, r) ? 0 : 1;
  }
  return differ;
}

// --- the paper's equivalence theorem ---

std::vector<Matrix<double>> hessians() {
  std::vector<Matrix<double>> all;
  for (const std::uint64_t key : {6U, 7U, 8U}) {
    all.push_back(test::damped(test::correlated_hessian(128, 150, key), 0.01));
  }
  all.push_back(test::damped(test::real_hessian(), 0.01));
  return all;
}

/// Columns that share a grid: 0 is the whole row.
class Equivalence : public testing::TestWithParam<index_t> {
 protected:
  Equivalence() { omp_set_num_threads(1); }
};
INSTANTIATE_TEST_SUITE_P(GroupSizes, Equivalence, testing::Values<index_t>(0, 8, 32, 48, 64));

// In fp64, where near ties play no part: the two recursions share neither a factorisation nor a
// loop. With groups their grids are those of the weights as they came: static.
TEST_P(Equivalence, OptqIsLdlqInForwardOrder) {
  const Matrix<float> w = test::gaussian_weights(64, 128, 5);
  const std::vector<index_t> natural = test::natural_order(128);
  const std::vector<index_t> forward = reversed(natural);
  for (const Matrix<double>& h : hessians()) {
    const Matrix<double> feedback = test::ldl_feedback(test::reordered(h, forward));
    const Matrix<double> inverses = test::obq_rows(h);
    for (const double top : {3.0, 7.0, 15.0}) {
      for (index_t r = 0; r < w.rows(); ++r) {
        const std::vector<double> row = row_of(w, r);
        const auto grids = test::group_grids(row, GetParam() == 0 ? 128 : GetParam(), top, false);
        EXPECT_EQ(test::naive_feedback(row, feedback, top, forward, grids).levels,
                  test::naive_optq(row, inverses, top, natural, grids).levels);
      }
    }
  }
}

// The same of what the program stores, which rounds in fp32: a row in ten may meet a near tie.
TEST_P(Equivalence, OptqAndLdlqStoreTheSameCodes) {
  std::vector<Matrix<double>> all;
  all.push_back(test::real_hessian());
  all.push_back(test::correlated_hessian(300, 700, 6));
  for (const Matrix<double>& h : all) {
    const Matrix<float> w = test::gaussian_weights(101, h.rows(), 5);
    const auto stored = [&](Method method) {
      return quantize(w, h, grouped(method, GetParam(), GroupFit::fixed)).layer;
    };
    const QuantizedLinear optq = stored(Method::optq);
    const QuantizedLinear ldlq = stored(Method::ldlq);
    EXPECT_EQ(optq.scale, ldlq.scale);
    EXPECT_EQ(optq.zero, ldlq.zero);
    EXPECT_LE(rows_that_differ(optq, ldlq), 10);
  }
}

// Groups of rows: a row's codes are the same alone, among 32 and in tiles of up to 128 with others.
TEST_P(Equivalence, GroupsOfRowsDoNotChangeACode) {
  const Matrix<double> h = test::correlated_hessian(200, 500, 7);
  const Matrix<float> w = test::gaussian_weights(133, 200, 8);
  using Fit = std::tuple<Method, GroupFit>;
  for (const auto& [method, fit] :
       {Fit{Method::optq, GroupFit::fixed}, Fit{Method::optq, GroupFit::dynamic},
        Fit{Method::ldlq, GroupFit::fixed}}) {
    const LayerOptions options = grouped(method, GetParam(), fit);
    const QuantizedLinear whole = quantize(w, h, options).layer;
    for (const int parts : {2, 5, 133}) {
      EXPECT_EQ(digest_of(quantize(w, h, options, parts).layer), digest_of(whole)) << parts;
    }
  }
}

// --- dynamic groups ---

struct DynamicCase {
  index_t n;
  index_t group_size;
  bool symmetric;
};
class DynamicGroups : public testing::TestWithParam<DynamicCase> {};
// Groups within blocks of the factor, as long as these, longer, across their ends, and ragged.
INSTANTIATE_TEST_SUITE_P(Sizes, DynamicGroups,
                         testing::Values(DynamicCase{300, 8, false}, DynamicCase{300, 24, true},
                                         DynamicCase{300, 100, false},
                                         DynamicCase{300, block, true},
                                         DynamicCase{2 * block, block, false},
                                         DynamicCase{300, 200, false}, DynamicCase{129, 64, false},
                                         DynamicCase{31, 8, true}));

// fp32 feedback errs by about 1e-6 of a weight, and steps are some 0.01 to 0.03: a scale agrees to
// 1e-3 and a target to 1e-3 levels. A row that parts from the definition does so at a near tie, and
// what follows is another row; hardly one in ten does.
TEST_P(DynamicGroups, FollowTheirDefinition) {
  const auto [n, group_size, symmetric] = GetParam();
  constexpr index_t rows = 40;
  const Matrix<float> w = test::gaussian_weights(rows, n, 1);
  const Matrix<double> h = test::correlated_hessian(n, 2 * n + 5, 2);
  LayerOptions options = grouped(Method::optq, group_size, GroupFit::dynamic);
  options.symmetric = symmetric;
  const QuantizedLinear layer = quantize(w, h, options).layer;
  const Matrix<double> inverses = test::obq_rows(test::damped(h, 0.01));
  const std::vector<index_t> natural = test::natural_order(n);
  int parted = 0;
  for (index_t r = 0; r < rows; ++r) {
    const test::NaiveRow naive =
        test::naive_optq(row_of(w, r), inverses, 7.0, natural, {}, group_size, symmetric);
    const std::vector<double> codes = codes_of(layer, r);
    for (index_t k = 0; k < n; ++k) {
      const index_t g = r * layer.groups() + k / group_size;
      const double zero = symmetric ? 4.0 : layer.zero[at(g)];
      const double scale = naive.grids[at(k)].scale;
      EXPECT_NEAR(layer.scale[at(g)], scale, 1e-3 * scale) << "row " << r << ", column " << k;
      if (codes[at(k)] == naive.levels[at(k)] && zero == naive.grids[at(k)].zero) continue;
      const double target = naive.targets[at(k)];
      EXPECT_NEAR(target - std::floor(target), 0.5, 1e-3) << "row " << r << ", column " << k;
      ++parted;
      break;
    }
  }
  EXPECT_LE(parted, rows / 10);
}

TEST(DynamicGroupsTest, AreTheDefaultOfOptqWhereTheyCanBe) {
  const Matrix<float> w = test::gaussian_weights(40, 160, 3);
  const Matrix<double> h = test::correlated_hessian(160, 400, 4);
  const auto digest = [&](const LayerOptions& options) {
    return digest_of(quantize(w, h, options).layer);
  };
  LayerOptions options = grouped(Method::optq, 32, GroupFit::dynamic);
  const std::string dynamic = digest(options);
  options.groups = GroupFit::fixed;
  const std::string fixed = digest(options);
  EXPECT_NE(dynamic, fixed);
  options.groups.reset();
  EXPECT_EQ(digest(options), dynamic);
  options.clamp = Clamp::pre;
  EXPECT_EQ(options.effective_groups(), GroupFit::fixed);
  options.clamp = Clamp::feedback;
  options.act_order = true;
  EXPECT_EQ(options.effective_groups(), GroupFit::fixed);
  options = grouped(Method::ldlq, 32, GroupFit::fixed);
  options.groups.reset();
  EXPECT_EQ(options.effective_groups(), GroupFit::fixed);
}

// The one group of a row is reached before any column: nothing has moved yet.
TEST(DynamicGroupsTest, OfTheWholeRowAreStatic) {
  const Matrix<float> w = test::gaussian_weights(40, 160, 3);
  const Matrix<double> h = test::correlated_hessian(160, 400, 4);
  for (const index_t size : {index_t{160}, index_t{1000}}) {
    EXPECT_EQ(digest_of(quantize(w, h, grouped(Method::optq, size, GroupFit::dynamic)).layer),
              digest_of(quantize(w, h, grouped(Method::optq, size, GroupFit::fixed)).layer));
  }
}

// What they are for: weights that earlier columns have pushed beyond a static grid are cut there.
TEST(DynamicGroupsTest, LoseLessThanStaticOnes) {
  const Matrix<float> w = test::gaussian_weights(200, 256, 5);
  const Matrix<double> h = test::correlated_hessian(256, 300, 6);
  const double dynamic = quantize(w, h, grouped(Method::optq, 32, GroupFit::dynamic)).loss;
  EXPECT_LT(dynamic, quantize(w, h, grouped(Method::optq, 32, GroupFit::fixed)).loss);
}

}  // namespace
}  // namespace quip::optq_test
