#include "quip/linalg/triangular.hpp"

#include <algorithm>

#include <cblas.h>

#include "quip/linalg/ldl.hpp"

namespace quip {
namespace {

int as_blas(index_t value) { return static_cast<int>(value); }

void solve(CBLAS_SIDE side, CBLAS_TRANSPOSE transpose, MatrixView<const double> l,
           MatrixView<double> b) {
  if (b.size() == 0) return;
  cblas_dtrsm(CblasRowMajor, side, CblasLower, transpose, CblasUnit, as_blas(b.rows),
              as_blas(b.cols), 1.0, l.data, as_blas(l.ld), b.data, as_blas(b.ld));
}

MatrixView<const double> trailing(MatrixView<const double> l, index_t first) {
  return {l.data + first * l.ld + first, l.rows - first, l.cols - first, l.ld};
}

}  // namespace

void solve_right_transposed(MatrixView<const double> l, MatrixView<double> b) {
  solve(CblasRight, CblasTrans, l, b);
}

void solve_right(MatrixView<const double> l, MatrixView<double> b) {
  solve(CblasRight, CblasNoTrans, l, b);
}

void invert_unit_lower(MatrixView<const double> l, MatrixView<double> inverse) {
  const index_t n = inverse.rows;
#pragma omp parallel for schedule(dynamic)
  for (index_t j = 0; j < n; j += ldl_block) {  // columns; column j of the inverse begins at row j
    const index_t width = std::min(ldl_block, n - j);
    Matrix<double> columns(n - j, width, 0.0);
    for (index_t i = 0; i < width; ++i) columns(i, i) = 1.0;
    solve(CblasLeft, CblasNoTrans, trailing(l, j), columns.view());
    for (index_t i = 0; i < n - j; ++i) {
      std::copy_n(columns.row(i), std::min(width, i), inverse.row(j + i) + j);
    }
  }
}

}  // namespace quip
