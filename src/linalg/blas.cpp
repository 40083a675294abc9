#include "quip/linalg/blas.hpp"

#include <algorithm>
#include <limits>
#include <string_view>

#include <cblas.h>

#include "quip/core/error.hpp"

namespace quip {
namespace {

blasint blas_size(index_t value, std::string_view routine) {
  if (value < 0 || value > std::numeric_limits<blasint>::max()) {
    fail("{}: size {} does not fit in the BLAS's integers; split the operation", routine, value);
  }
  return static_cast<blasint>(value);
}

/// Returns the leading dimension; BLAS refuses 0, which an empty view may have.
template <typename T>
blasint blas_stride(MatrixView<T> view, std::string_view routine) {
  const index_t stride = view.rows > 1 ? view.ld : std::max(view.ld, view.cols);
  if (stride < view.cols) {
    fail("{}: row stride {} is less than the {} columns", routine, view.ld, view.cols);
  }
  return blas_size(std::max<index_t>(stride, 1), routine);
}

struct Shape {
  index_t rows;
  index_t cols;
};

template <typename T>
Shape shape_of(Transpose transpose, MatrixView<T> view) {
  return transpose == Transpose::no ? Shape{view.rows, view.cols} : Shape{view.cols, view.rows};
}

CBLAS_TRANSPOSE cblas(Transpose transpose) {
  return transpose == Transpose::no ? CblasNoTrans : CblasTrans;
}

template <typename T, typename Routine>
void checked_gemm(std::string_view name, Routine routine, Transpose transpose_a,
                  Transpose transpose_b, T alpha, MatrixView<const T> a, MatrixView<const T> b,
                  T beta, MatrixView<T> c) {
  const Shape left = shape_of(transpose_a, a);
  const Shape right = shape_of(transpose_b, b);
  if (left.cols != right.rows || left.rows != c.rows || right.cols != c.cols) {
    fail("{}: [{} × {}] · [{} × {}] does not give [{} × {}]", name, left.rows, left.cols,
         right.rows, right.cols, c.rows, c.cols);
  }
  if (c.size() == 0) return;
  routine(CblasRowMajor, cblas(transpose_a), cblas(transpose_b), blas_size(c.rows, name),
          blas_size(c.cols, name), blas_size(left.cols, name), alpha, a.data, blas_stride(a, name),
          b.data, blas_stride(b, name), beta, c.data, blas_stride(c, name));
}

template <typename T, typename Routine>
void checked_syrk(std::string_view name, Routine routine, Transpose transpose_a, T alpha,
                  MatrixView<const T> a, T beta, MatrixView<T> c) {
  const Shape factor = shape_of(transpose_a, a);
  if (factor.rows != c.rows || c.rows != c.cols) {
    fail("{}: the square of [{} × {}] is not [{} × {}]", name, factor.rows, factor.cols, c.rows,
         c.cols);
  }
  if (c.size() == 0) return;
  routine(CblasRowMajor, CblasLower, cblas(transpose_a), blas_size(c.rows, name),
          blas_size(factor.cols, name), alpha, a.data, blas_stride(a, name), beta, c.data,
          blas_stride(c, name));
}

}  // namespace

void gemm(Transpose transpose_a, Transpose transpose_b, float alpha, MatrixView<const float> a,
          MatrixView<const float> b, float beta, MatrixView<float> c) {
  checked_gemm<float>("sgemm", cblas_sgemm, transpose_a, transpose_b, alpha, a, b, beta, c);
}

void gemm(Transpose transpose_a, Transpose transpose_b, double alpha, MatrixView<const double> a,
          MatrixView<const double> b, double beta, MatrixView<double> c) {
  checked_gemm<double>("dgemm", cblas_dgemm, transpose_a, transpose_b, alpha, a, b, beta, c);
}

void syrk_lower(Transpose transpose_a, float alpha, MatrixView<const float> a, float beta,
                MatrixView<float> c) {
  checked_syrk<float>("ssyrk", cblas_ssyrk, transpose_a, alpha, a, beta, c);
}

void syrk_lower(Transpose transpose_a, double alpha, MatrixView<const double> a, double beta,
                MatrixView<double> c) {
  checked_syrk<double>("dsyrk", cblas_dsyrk, transpose_a, alpha, a, beta, c);
}

void use_one_blas_thread() { openblas_set_num_threads(1); }

}  // namespace quip
