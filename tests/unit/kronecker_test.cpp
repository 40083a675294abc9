// The random orthogonal transform: orthogonal, invertible, and the same however it is cut.
#include "quip/quant/kronecker.hpp"

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "quip/core/rng.hpp"

namespace quip {
namespace {

using Rows = KroneckerTransform::Rows;

Matrix<double> dense(const KroneckerTransform& transform) {
  const index_t n = transform.size();
  Matrix<double> q(n, n, 0.0);
  for (index_t i = 0; i < n; ++i) q(i, i) = 1.0;
  std::vector<double> scratch(static_cast<std::size_t>(n * n));
  transform.apply(q.view(), scratch.data());
  return q;
}

TEST(BalancedFactors, AreAsCloseAsThePrimesAllow) {
  const auto check = [](index_t n, index_t p, index_t q) {
    const Factorization f = balanced_factors(n);
    EXPECT_EQ(f.p, p) << n;
    EXPECT_EQ(f.q, q) << n;
  };
  check(1, 1, 1);
  check(128, 8, 16);
  check(352, 16, 22);
  check(4096, 64, 64);
  check(11008, 86, 128);
  check(53248, 208, 256);
  check(97, 1, 97);
}

class Kronecker : public testing::TestWithParam<index_t> {};

TEST_P(Kronecker, IsOrthogonal) {
  const index_t n = GetParam();
  for (const Rows rows : {Rows::permuted, Rows::factor_order}) {
    const Matrix<double> q = dense(KroneckerTransform(n, 5, rows));
    for (index_t i = 0; i < n; ++i) {
      for (index_t j = 0; j <= i; ++j) {
        double dot = 0;
        for (index_t k = 0; k < n; ++k) dot += q(i, k) * q(j, k);
        EXPECT_NEAR(dot, i == j ? 1.0 : 0.0, 1e-13);
      }
    }
  }
}

TEST_P(Kronecker, TransposeUndoesIt) {
  const index_t n = GetParam();
  const KroneckerTransform transform(n, 6, Rows::permuted);
  const RandomStream random(7);
  Matrix<float> x(n, 3);
  for (index_t i = 0; i < x.size(); ++i) {
    x.data()[i] = static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
  }
  const std::vector<float> before(x.data(), x.data() + x.size());
  std::vector<float> scratch(static_cast<std::size_t>(n * 3));
  transform.apply(x.view(), scratch.data());
  transform.apply_transposed(x.view(), scratch.data());
  for (index_t i = 0; i < x.size(); ++i) {
    EXPECT_NEAR(x.data()[i], before[static_cast<std::size_t>(i)], 2e-5F);
  }
}

TEST_P(Kronecker, AnyRangeOfRowsHasTheSameBits) {
  const index_t n = GetParam();
  constexpr index_t cols = 5;
  const KroneckerTransform transform(n, 8, Rows::factor_order);
  const RandomStream random(9);
  Matrix<float> x(n, cols);
  for (index_t i = 0; i < x.size(); ++i) {
    x.data()[i] = static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
  }
  std::vector<float> scratch(static_cast<std::size_t>(n * cols));
  Matrix<float> whole(n, cols);
  std::copy_n(x.data(), x.size(), whole.data());
  transform.apply(whole.view(), scratch.data());
  for (const index_t count : {index_t{1}, index_t{7}, n}) {
    for (index_t first = 0; first < n; first += count) {
      Matrix<float> part(std::min(count, n - first), cols);
      transform.apply_rows(x.view(), first, part.view(), scratch.data());
      for (index_t i = 0; i < part.size(); ++i) {
        ASSERT_EQ(part.data()[i], whole.data()[first * cols + i]) << "rows from " << first;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Orders, Kronecker, testing::Values(1, 2, 7, 12, 64, 96, 97));

TEST(KroneckerSeeds, TellTransformsApart) {
  const Matrix<double> a = dense(KroneckerTransform(12, 1, Rows::permuted));
  const Matrix<double> b = dense(KroneckerTransform(12, 2, Rows::permuted));
  const Matrix<double> again = dense(KroneckerTransform(12, 1, Rows::permuted));
  EXPECT_NE(std::vector<double>(a.data(), a.data() + 144),
            std::vector<double>(b.data(), b.data() + 144));
  EXPECT_EQ(std::vector<double>(a.data(), a.data() + 144),
            std::vector<double>(again.data(), again.data() + 144));
}

// E[Q_ij²] = 1/n for Haar-distributed Q; its relative standard deviation over 400 draws is
// below 0.1, so five of them bound the estimate.
TEST(RandomOrthogonal, EntriesHaveTheVarianceOfTheHaarMeasure) {
  constexpr index_t n = 6;
  double corner = 0;
  double mean = 0;
  for (std::uint64_t key = 0; key < 400; ++key) {
    const Matrix<double> q = random_orthogonal(n, key);
    corner += q(0, 0) * q(0, 0) / 400;
    mean += q(0, 0) / 400;
  }
  EXPECT_NEAR(corner, 1.0 / n, 0.5 / n);
  EXPECT_NEAR(mean, 0.0, 5 * std::sqrt(1.0 / n / 400));  // the sign fix must not bias the sign
}

}  // namespace
}  // namespace quip
