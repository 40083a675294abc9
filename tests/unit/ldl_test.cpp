// LDLᵀ against its definition.
#include "quip/linalg/ldl.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>
#include <omp.h>

#include "quip/core/rng.hpp"

namespace quip::ldl_test {
namespace {

/// G Gᵀ/n + shift·I with Gaussian G [n × n].
Matrix<double> random_hessian(index_t n, double shift, std::uint64_t key) {
  const RandomStream random(key);
  Matrix<double> g(n, n);
  for (index_t i = 0; i < n * n; ++i) g.data()[i] = random.normal(static_cast<std::uint64_t>(i));
  Matrix<double> h(n, n, 0.0);
  for (index_t i = 0; i < n; ++i) {
    for (index_t j = 0; j <= i; ++j) {
      double sum = 0;
      for (index_t k = 0; k < n; ++k) sum += g(i, k) * g(j, k);
      h(i, j) = h(j, i) = sum / static_cast<double>(n) + (i == j ? shift : 0.0);
    }
  }
  return h;
}

class Ldl : public testing::TestWithParam<index_t> {};

TEST_P(Ldl, FactorsMultiplyBackToTheMatrix) {
  const index_t n = GetParam();
  const Matrix<double> original = random_hessian(n, 0.01, 11);
  Matrix<double> h = random_hessian(n, 0.01, 11);
  std::vector<double> d(static_cast<std::size_t>(n));
  ASSERT_EQ(ldl_factor(h.view(), d), 0);
  double worst = 0;
  double norm = 0;
  for (index_t i = 0; i < n; ++i) {
    for (index_t j = 0; j <= i; ++j) {
      double sum = 0;
      for (index_t k = 0; k <= j; ++k) {
        const double left = k == i ? 1.0 : h(i, k);
        const double right = k == j ? 1.0 : h(j, k);
        sum += left * d[static_cast<std::size_t>(k)] * right;
      }
      worst = std::max(worst, std::abs(sum - original(i, j)));
      norm = std::max(norm, std::abs(original(i, j)));
      if (j < i) {
        EXPECT_EQ(h(j, i), original(j, i)) << "the upper triangle was touched";
      }
    }
  }
  EXPECT_LE(worst, 1e-14 * static_cast<double>(n) * norm);  // backward stable: n·2⁻⁵³ and a margin
}

TEST_P(Ldl, RowsAreSolvedWithTheMatrix) {
  const index_t n = GetParam();
  const Matrix<double> h = random_hessian(n, 0.5, 11);
  Matrix<double> l = random_hessian(n, 0.5, 11);
  std::vector<double> d(static_cast<std::size_t>(n));
  ASSERT_EQ(ldl_factor(l.view(), d), 0);
  const RandomStream random(12);
  const index_t rows = 70;
  Matrix<double> x(rows, n);
  for (index_t i = 0; i < x.size(); ++i) x.data()[i] = random.normal(static_cast<std::uint64_t>(i));
  const Matrix<double> right = pad(x.cview(), rows, n);
  const std::vector<double> norms = solve_ldl_rows(columns_of(l.cview()), d, x.view());
  for (index_t i = 0; i < rows; i += 23) {
    double norm = 0;
    for (index_t j = 0; j < n; ++j) {
      double product = 0;
      for (index_t k = 0; k < n; ++k) product += x(i, k) * h(k, j);
      EXPECT_NEAR(product, right(i, j), 1e-11) << i << ", " << j;
      norm += x(i, j) * right(i, j);
    }
    EXPECT_NEAR(norms[static_cast<std::size_t>(i)], norm, 1e-10 * norm);
  }
  // Other numbers of rows and threads: the same bits of the same rows.
  Matrix<double> some = pad(right.cview().middle_rows(solve_rows_unit, 38), 38, n);
  omp_set_num_threads(1);
  solve_ldl_rows(columns_of(l.cview()), d, some.view());
  omp_set_num_threads(omp_get_num_procs());
  for (index_t i = 0; i < some.rows(); ++i) {
    for (index_t j = 0; j < n; ++j) ASSERT_EQ(some(i, j), x(solve_rows_unit + i, j));
  }
}

TEST_P(Ldl, ThreadsDoNotChangeABit) {
  const index_t n = GetParam();
  std::vector<double> reference;
  for (const int threads : {1, 2, 3}) {
    omp_set_num_threads(threads);
    Matrix<double> h = random_hessian(n, 0.01, 12);
    std::vector<double> d(static_cast<std::size_t>(n));
    ASSERT_EQ(ldl_factor(h.view(), d), 0);
    std::vector<double> all(h.data(), h.data() + h.size());
    all.insert(all.end(), d.begin(), d.end());
    if (threads == 1) reference = all;
    EXPECT_EQ(all, reference) << threads << " threads";
  }
}

INSTANTIATE_TEST_SUITE_P(Orders, Ldl, testing::Values(1, 2, 127, 128, 129, 300));

TEST(LdlFailure, NamesTheLeadingMinor) {
  Matrix<double> h(200, 200, 0.0);
  for (index_t i = 0; i < 200; ++i) h(i, i) = i == 150 ? -1.0 : 1.0;
  std::vector<double> d(200);
  EXPECT_EQ(ldl_factor(h.view(), d), 151);
}

TEST(LdlFailure, ANanIsNotPositiveDefinite) {
  Matrix<double> h(3, 3, 0.0);
  for (index_t i = 0; i < 3; ++i) h(i, i) = 1.0;
  h(1, 1) = std::numeric_limits<double>::quiet_NaN();
  std::vector<double> d(3);
  EXPECT_EQ(ldl_factor(h.view(), d), 2);
}

}  // namespace
}  // namespace quip::ldl_test
