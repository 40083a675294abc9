// The product whose bits may not depend on how it is cut.
#include "quip/linalg/ordered_gemm.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "quip/core/rng.hpp"

namespace quip::ordered_gemm_test {
namespace {

template <typename T>
std::vector<T> random_values(index_t count, std::uint64_t key) {
  const RandomStream random(key);
  std::vector<T> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<T>(random.normal(i));
  return values;
}

struct Shape {
  index_t m, n, k;
};

class OrderedGemm : public testing::TestWithParam<Shape> {};

TEST_P(OrderedGemm, AgreesWithAnFp64Sum) {
  const auto [m, n, k] = GetParam();
  const auto a = random_values<float>(m * k, 1);
  const auto b = random_values<float>(k * n, 2);
  auto c = random_values<float>(m * n, 3);
  const auto c0 = c;
  ordered_gemm<float>(m, n, k, {a.data(), k, 1}, b.data(), n, c.data(), n);
  for (index_t i = 0; i < m; ++i) {
    for (index_t j = 0; j < n; ++j) {
      double sum = c0[static_cast<std::size_t>(i * n + j)];
      double magnitude = std::abs(sum);
      for (index_t l = 0; l < k; ++l) {
        const double term = static_cast<double>(a[static_cast<std::size_t>(i * k + l)]) *
                            b[static_cast<std::size_t>(l * n + j)];
        sum += term;
        magnitude += std::abs(term);
      }
      // k roundings of a chain, each at most half an ulp (2⁻²⁴) of a partial sum ≤ magnitude.
      EXPECT_NEAR(c[static_cast<std::size_t>(i * n + j)], sum,
                  static_cast<double>(k + 1) * 0x1p-24 * magnitude);
    }
  }
}

TEST_P(OrderedGemm, AnyCutGivesTheSameBits) {
  const auto [m, n, k] = GetParam();
  const auto a = random_values<double>(m * k, 4);
  const auto b = random_values<double>(k * n, 5);
  std::vector<double> whole(static_cast<std::size_t>(m * n), 0.0);
  ordered_gemm<double>(m, n, k, {a.data(), k, 1}, b.data(), n, whole.data(), n);
  for (const index_t cut : {index_t{1}, index_t{5}, index_t{16}}) {
    std::vector<double> parts(whole.size(), 0.0);
    for (index_t k0 = 0; k0 < k; k0 += cut) {
      for (index_t i0 = 0; i0 < m; i0 += cut) {
        for (index_t j0 = 0; j0 < n; j0 += cut) {
          ordered_gemm<double>(std::min(cut, m - i0), std::min(cut, n - j0), std::min(cut, k - k0),
                               {a.data() + i0 * k + k0, k, 1}, b.data() + k0 * n + j0, n,
                               parts.data() + i0 * n + j0, n);
        }
      }
    }
    EXPECT_EQ(parts, whole) << "cut into pieces of " << cut;
  }
}

TEST_P(OrderedGemm, TransposedOperandIsTheSameProduct) {
  const auto [m, n, k] = GetParam();
  const auto a = random_values<float>(m * k, 6);
  std::vector<float> at(a.size());
  for (index_t i = 0; i < m; ++i) {
    for (index_t l = 0; l < k; ++l) {
      at[static_cast<std::size_t>(l * m + i)] = a[static_cast<std::size_t>(i * k + l)];
    }
  }
  const auto b = random_values<float>(k * n, 7);
  std::vector<float> plain(static_cast<std::size_t>(m * n), 0.0F);
  std::vector<float> transposed = plain;
  ordered_gemm<float>(m, n, k, {a.data(), k, 1}, b.data(), n, plain.data(), n);
  ordered_gemm<float>(m, n, k, {at.data(), 1, m}, b.data(), n, transposed.data(), n);
  EXPECT_EQ(plain, transposed);
}

// C is not read: what it held may be anything.
TEST_P(OrderedGemm, ProductIsTheSumFromZero) {
  const auto [m, n, k] = GetParam();
  const auto a = random_values<float>(m * k, 8);
  const auto b = random_values<float>(k * n, 9);
  std::vector<float> sum(static_cast<std::size_t>(m * n), 0.0F);
  std::vector<float> product(sum.size(), std::numeric_limits<float>::quiet_NaN());
  ordered_gemm<float>(m, n, k, {a.data(), k, 1}, b.data(), n, sum.data(), n);
  ordered_product<float>(m, n, k, {a.data(), k, 1}, b.data(), n, product.data(), n);
  EXPECT_EQ(product, sum);
}

INSTANTIATE_TEST_SUITE_P(Shapes, OrderedGemm,
                         testing::Values(Shape{1, 1, 1}, Shape{8, 32, 16}, Shape{9, 33, 17},
                                         Shape{3, 31, 300}, Shape{64, 64, 64}, Shape{70, 5, 257},
                                         Shape{28, 64, 28}, Shape{15, 96, 400}));

}  // namespace
}  // namespace quip::ordered_gemm_test
