// The BLAS wrappers: results against naive loops, shapes refused.
#include "quip/linalg/blas.hpp"

#include <gtest/gtest.h>

#include "quip/core/error.hpp"

namespace quip::blas_test {
namespace {

/// Small integers: every product sum is exact in either precision.
template <typename T>
Matrix<T> integers(index_t rows, index_t cols, int seed) {
  Matrix<T> matrix(rows, cols);
  for (index_t i = 0; i < rows; ++i) {
    for (index_t j = 0; j < cols; ++j) {
      matrix(i, j) = static_cast<T>((i * 31 + j * 17 + seed) % 13 - 6);
    }
  }
  return matrix;
}

template <typename T>
T element(Transpose transpose, const Matrix<T>& matrix, index_t i, index_t j) {
  return transpose == Transpose::no ? matrix(i, j) : matrix(j, i);
}

template <typename T>
class Blas : public testing::Test {};
using Precisions = testing::Types<float, double>;
TYPED_TEST_SUITE(Blas, Precisions);

TYPED_TEST(Blas, GemmOfEveryTransposition) {
  using T = TypeParam;
  const index_t m = 7;
  const index_t n = 5;
  const index_t k = 19;
  for (const Transpose ta : {Transpose::no, Transpose::yes}) {
    for (const Transpose tb : {Transpose::no, Transpose::yes}) {
      const auto a = ta == Transpose::no ? integers<T>(m, k, 1) : integers<T>(k, m, 1);
      const auto b = tb == Transpose::no ? integers<T>(k, n, 2) : integers<T>(n, k, 2);
      // C is a window of a wider matrix: its surroundings must survive.
      Matrix<T> wide(m, n + 3, T{100});
      gemm(ta, tb, T{2}, a.cview(), b.cview(), T{1}, wide.view().middle_cols(2, n));
      for (index_t i = 0; i < m; ++i) {
        for (index_t j = 0; j < n; ++j) {
          T expected = 100;
          for (index_t p = 0; p < k; ++p) {
            expected += 2 * element(ta, a, i, p) * element(tb, b, p, j);
          }
          EXPECT_EQ(wide(i, j + 2), expected) << i << ' ' << j;
        }
        EXPECT_EQ(wide(i, 1), T{100});
        EXPECT_EQ(wide(i, n + 2), T{100});
      }
    }
  }
}

TYPED_TEST(Blas, SyrkWritesTheLowerTriangleOnly) {
  using T = TypeParam;
  const index_t n = 9;
  const index_t k = 4;
  for (const Transpose transpose : {Transpose::no, Transpose::yes}) {
    const auto a = transpose == Transpose::no ? integers<T>(n, k, 3) : integers<T>(k, n, 3);
    Matrix<T> c(n, n, T{-1});
    syrk_lower(transpose, T{1}, a.cview(), T{0}, c.view());
    for (index_t i = 0; i < n; ++i) {
      for (index_t j = 0; j < n; ++j) {
        T expected = 0;
        for (index_t p = 0; p < k; ++p) {
          expected += element(transpose, a, i, p) * element(transpose, a, j, p);
        }
        EXPECT_EQ(c(i, j), j <= i ? expected : T{-1}) << i << ' ' << j;
      }
    }
  }
}

TYPED_TEST(Blas, EmptyInnerDimensionScalesOnly) {
  using T = TypeParam;
  const Matrix<T> a(2, 0);
  const Matrix<T> b(0, 3);
  Matrix<T> c(2, 3, T{4});
  gemm(Transpose::no, Transpose::no, T{1}, a.cview(), b.cview(), T{0.5}, c.view());
  for (const T value : c.span()) EXPECT_EQ(value, T{2});
}

TYPED_TEST(Blas, RefusesWhatDoesNotFit) {
  using T = TypeParam;
  const Matrix<T> a(2, 3, T{0});
  Matrix<T> c(2, 2, T{0});
  EXPECT_THROW(gemm(Transpose::no, Transpose::no, T{1}, a.cview(), a.cview(), T{0}, c.view()),
               Error);
  EXPECT_THROW(syrk_lower(Transpose::yes, T{1}, a.cview(), T{0}, c.view()), Error);
  // A stride beyond 2³¹ − 1 is never handed to the BLAS.
  const MatrixView<const T> huge(a.data(), 2, 3, index_t{1} << 31);
  EXPECT_THROW(gemm(Transpose::no, Transpose::yes, T{1}, huge, a.cview(), T{0}, c.view()), Error);
}

}  // namespace
}  // namespace quip::blas_test
