// Random orthogonal transforms of every kind: orthogonal, invertible, and the same however they
// are cut.
#include "quip/quant/transform/transform.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>
#include <omp.h>

#include "quip/core/error.hpp"
#include "quip/core/rng.hpp"
#include "quip/quant/transform/random_orthogonal.hpp"

namespace quip::transform_test {
namespace {

constexpr TransformKind kinds[] = {TransformKind::none,
                                   TransformKind::kronecker,
                                   TransformKind::kronecker_blocked,
                                   TransformKind::kronecker_nopermute,
                                   TransformKind::hadamard,
                                   TransformKind::hadamard_128,
                                   TransformKind::dense};
// Prime, odd, a power of two, Paley I (96 = 8·12, 160 = 8·20) and II (72 = 2·36, 112 = 4·28), and
// an odd part without a Paley order (344 = 8·43).
constexpr index_t sizes[] = {1, 2, 7, 12, 64, 72, 96, 97, 112, 160, 344};

template <typename T>
Matrix<T> random_matrix(index_t rows, index_t cols, std::uint64_t key) {
  const RandomStream random(key);
  Matrix<T> x(rows, cols);
  for (index_t i = 0; i < x.size(); ++i) {
    x.data()[i] = static_cast<T>(random.normal(static_cast<std::uint64_t>(i)));
  }
  return x;
}

template <typename T>
Matrix<T> copy_of(const Matrix<T>& x) {
  Matrix<T> y(x.rows(), x.cols());
  std::copy_n(x.data(), x.size(), y.data());
  return y;
}

Matrix<double> formed(const Transform& transform) {
  const index_t n = transform.size();
  Matrix<double> q(n, n, 0.0);
  for (index_t i = 0; i < n; ++i) q(i, i) = 1.0;
  const Buffer<double> scratch(n * n);
  transform.apply(q.view(), scratch.data());
  return q;
}

std::vector<double> elements(const Matrix<double>& x) { return {x.data(), x.data() + x.size()}; }

struct Case {
  TransformKind kind;
  index_t n;
};

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const TransformKind kind : kinds) {
    if (kind == TransformKind::hadamard_128) {
      for (const index_t n : {128, 256, 384}) cases.push_back({kind, n});
      continue;
    }
    for (const index_t n : sizes) cases.push_back({kind, n});
  }
  return cases;
}

class Transforms : public testing::TestWithParam<Case> {
 protected:
  [[nodiscard]] static std::unique_ptr<const Transform> make(std::uint64_t key, Side side) {
    return make_transform(GetParam().kind, GetParam().n, key, side);
  }
};

TEST_P(Transforms, AreOrthogonal) {
  const index_t n = GetParam().n;
  for (const Side side : {Side::input, Side::output}) {
    const Matrix<double> q = formed(*make(5, side));
    for (index_t i = 0; i < n; ++i) {
      for (index_t j = 0; j <= i; ++j) {
        const double dot = std::inner_product(q.row(i), q.row(i) + n, q.row(j), 0.0);
        ASSERT_NEAR(dot, i == j ? 1.0 : 0.0, 1e-13) << i << ' ' << j;
      }
    }
  }
}

TEST_P(Transforms, TransposeIsTheTransposedMatrix) {
  const index_t n = GetParam().n;
  const auto transform = make(6, Side::input);
  const Matrix<double> q = formed(*transform);
  const Matrix<double> x = random_matrix<double>(n, 3, 7);
  Matrix<double> y = copy_of(x);
  const Buffer<double> scratch(n * 3);
  transform->apply_transposed(y.view(), scratch.data());
  for (index_t j = 0; j < n; ++j) {
    for (index_t c = 0; c < 3; ++c) {
      double sum = 0;
      for (index_t i = 0; i < n; ++i) sum += q(i, j) * x(i, c);
      ASSERT_NEAR(y(j, c), sum, 1e-12);
    }
  }
}

TEST_P(Transforms, TransposeUndoesItInSinglePrecision) {
  const index_t n = GetParam().n;
  const auto transform = make(6, Side::input);
  const Matrix<float> before = random_matrix<float>(n, 3, 7);
  Matrix<float> x = copy_of(before);
  const Buffer<float> scratch(n * 3);
  transform->apply(x.view(), scratch.data());
  transform->apply_transposed(x.view(), scratch.data());
  for (index_t i = 0; i < x.size(); ++i) EXPECT_NEAR(x.data()[i], before.data()[i], 2e-5F);
}

TEST_P(Transforms, AnyRangeOfRowsAndColumnsHasTheSameBits) {
  const index_t n = GetParam().n;
  constexpr index_t cols = 37;  // beyond a vector, and not a multiple of one
  const auto transform = make(8, Side::output);
  const Matrix<float> x = random_matrix<float>(n, cols, 9);
  const Buffer<float> scratch(n * cols);
  const Matrix<float> whole = copy_of(x);
  transform->apply(whole.view(), scratch.data());
  for (const index_t width : {index_t{1}, index_t{16}, cols}) {
    for (const index_t count : {index_t{1}, index_t{7}, index_t{33}, n}) {
      for (index_t first = 0; first < n; first += count) {
        const Matrix<float> slab(n, width);
        for (index_t i = 0; i < n; ++i) std::copy_n(x.row(i) + cols - width, width, slab.row(i));
        const Matrix<float> part(std::min(count, n - first), width);
        transform->apply_rows(slab.view(), first, part.view(), scratch.data());
        for (index_t i = 0; i < part.rows(); ++i) {
          for (index_t j = 0; j < width; ++j) {
            ASSERT_EQ(part(i, j), whole(first + i, cols - width + j))
                << count << " rows from " << first << ", " << width << " columns";
          }
        }
      }
    }
  }
}

// Rows that are far apart, as apply_in_slabs hands them on, and rows that follow each other.
TEST_P(Transforms, TheDistanceOfRowsDoesNotChangeBits) {
  const index_t n = GetParam().n;
  constexpr index_t cols = 100;  // a whole slab and a part of one
  const auto transform = make(12, Side::input);
  for (const bool transposed : {false, true}) {
    const Matrix<float> far = random_matrix<float>(n, cols, 13);
    const Matrix<float> near = copy_of(far);
    apply_in_slabs(*transform, far.view(), transposed);
    const Buffer<float> scratch(n * cols);
    transposed ? transform->apply_transposed(near.view(), scratch.data())
               : transform->apply(near.view(), scratch.data());
    EXPECT_TRUE(std::equal(far.data(), far.data() + far.size(), near.data())) << transposed;
  }
}

TEST_P(Transforms, ThreadsDoNotChangeBits) {
  const index_t n = GetParam().n;
  const auto transform = make(10, Side::input);
  const Matrix<float> one = random_matrix<float>(n, 150, 11);
  const Matrix<float> three = copy_of(one);
  omp_set_num_threads(1);
  apply_in_slabs(*transform, one.view(), false);
  omp_set_num_threads(3);
  apply_in_slabs(*make(10, Side::input), three.view(), false);
  omp_set_num_threads(1);
  EXPECT_TRUE(std::equal(one.data(), one.data() + one.size(), three.data()));
}

TEST_P(Transforms, SeedsTellThemApart) {
  const Matrix<double> a = formed(*make(1, Side::input));
  const Matrix<double> again = formed(*make(1, Side::input));
  EXPECT_EQ(elements(a), elements(again));
  if (GetParam().kind == TransformKind::none || GetParam().n < 7) return;
  const Matrix<double> b = formed(*make(2, Side::input));
  EXPECT_NE(elements(a), elements(b));
}

INSTANTIATE_TEST_SUITE_P(Kinds, Transforms, testing::ValuesIn(all_cases()),
                         [](const auto& instance) {
                           std::string name = to_string(instance.param.kind) + "_" +
                                              std::to_string(instance.param.n);
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// The Kronecker product without permutations is what its name says: element by element the product
// of two small orthogonal factors, which its own corner blocks show up to a scalar.
TEST(KroneckerNopermute, IsAKroneckerProduct) {
  constexpr index_t n = 12;  // 3 × 4
  const Matrix<double> q =
      formed(*make_transform(TransformKind::kronecker_nopermute, n, 3, Side::input));
  for (index_t i = 0; i < n; ++i) {
    for (index_t j = 0; j < n; ++j) {  // (A ⊗ B)ᵢⱼ (A ⊗ B)₀₀ = A.. B₀₀ · A₀₀ B..
      const double outer = q(i / 4 * 4, j / 4 * 4);
      const double inner = q(i % 4, j % 4);
      EXPECT_NEAR(q(i, j) * q(0, 0), outer * inner, 1e-14);
    }
  }
}

/// Distinct values but for rounding.
std::size_t distinct(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const auto close = [](double a, double b) { return b - a < 1e-9 * std::abs(a) + 1e-9; };
  return static_cast<std::size_t>(std::unique(values.begin(), values.end(), close) -
                                  values.begin());
}

// n = 4 × 4. In A ⊗ B a column has the same shape B₁ⱼ/B₀ⱼ in every block of 4 rows, and columns
// that share their place j in B have it in common: 4 values. With a factor for each block there are
// 4·4. Likewise A₁ₖ/A₀ₖ, between the blocks: 4 values, or one for each of the 16 columns.
TEST(KroneckerBlocked, EveryBlockHasAFactorOfItsOwn) {
  const auto shapes = [](TransformKind kind) {
    const Matrix<double> q = formed(*make_transform(kind, 16, 3, Side::output));
    std::vector<double> inside;
    std::vector<double> between;
    for (index_t column = 0; column < 16; ++column) {
      for (index_t row = 0; row < 16; row += 4) {
        inside.push_back(q(row + 1, column) / q(row, column));
      }
      const auto block = [&](index_t row) {  // free of B's sign and scale when B is orthogonal
        double energy = 0;
        for (index_t i = 0; i < 4; ++i) energy += q(row + i, column) * q(row + i, column);
        return energy;
      };
      between.push_back(block(4) / block(0));
    }
    return std::pair(distinct(inside), distinct(between));
  };
  EXPECT_EQ(shapes(TransformKind::kronecker), std::pair(std::size_t{4}, std::size_t{4}));
  EXPECT_EQ(shapes(TransformKind::kronecker_blocked), std::pair(std::size_t{16}, std::size_t{16}));
}

TEST(DenseTransform, RefusesLargeLayersAndNamesAnother) {
  try {
    static_cast<void>(make_transform(TransformKind::dense, 8193, 0, Side::input));
    FAIL();
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("--transform dense"), std::string::npos) << text;
    EXPECT_NE(text.find("8193"), std::string::npos) << text;
    EXPECT_NE(text.find("hadamard"), std::string::npos) << text;
  }
}

TEST(Hadamard128, RefusesOtherSizesAndNamesAnother) {
  for (const index_t n : {1, 64, 100, 129, 352}) {
    try {
      static_cast<void>(make_transform(TransformKind::hadamard_128, n, 0, Side::input));
      FAIL() << n;
    } catch (const Error& error) {
      const std::string text = error.what();
      EXPECT_NE(text.find("--transform hadamard-128: " + std::to_string(n)), std::string::npos)
          << text;
      EXPECT_NE(text.find("choose --transform hadamard"), std::string::npos) << text;
    }
    const auto transform = make_transform(TransformKind::hadamard_128,
                                          padded(TransformKind::hadamard_128, n), 0, Side::input);
    EXPECT_GE(transform->size(), n);
    EXPECT_LT(transform->size(), n + 128);
    EXPECT_EQ(padded(TransformKind::hadamard, n), n);
  }
  EXPECT_EQ(padded(TransformKind::hadamard_128, 384), 384);
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
}  // namespace quip::transform_test
