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

/// Rows j … n-1 of columns j … of an inverse: `solve_columns` turns those of the identity into
/// them. What lies above them is not needed: column j of L⁻¹ begins at row j.
template <typename SolveColumns>
void invert_by_columns(MatrixView<double> inverse, bool with_diagonal, SolveColumns solve_columns) {
  const index_t n = inverse.rows;
#pragma omp parallel for schedule(dynamic)
  for (index_t j = 0; j < n; j += ldl_block) {
    const index_t width = std::min(ldl_block, n - j);
    Matrix<double> columns(n - j, width, 0.0);
    for (index_t i = 0; i < width; ++i) columns(i, i) = 1.0;
    solve_columns(j, columns.view());
    for (index_t i = 0; i < n - j; ++i) {
      const index_t count = std::min(width, with_diagonal ? i + 1 : i);
      std::copy_n(columns.row(i), count, inverse.row(j + i) + j);
    }
  }
}

}  // namespace

void solve_right_transposed(MatrixView<const double> l, MatrixView<double> b) {
  solve(CblasRight, CblasTrans, l, b);
}

void solve_right(MatrixView<const double> l, MatrixView<double> b) {
  solve(CblasRight, CblasNoTrans, l, b);
}

void invert_unit_lower(MatrixView<const double> l, MatrixView<double> inverse) {
  invert_by_columns(inverse, false, [l](index_t first, MatrixView<double> columns) {
    solve(CblasLeft, CblasNoTrans, trailing(l, first), columns);
  });
}

void invert_from_ldl(MatrixView<const double> l, std::span<const double> d,
                     MatrixView<double> inverse) {
  // H⁻¹ = (L+I)⁻ᵀ D⁻¹ (L+I)⁻¹, from the right.
  invert_by_columns(inverse, true, [l, d](index_t first, MatrixView<double> columns) {
    solve(CblasLeft, CblasNoTrans, trailing(l, first), columns);
    for (index_t i = 0; i < columns.rows; ++i) {
      const double pivot = d[static_cast<std::size_t>(first + i)];
      for (index_t j = 0; j < columns.cols; ++j) columns(i, j) /= pivot;
    }
    solve(CblasLeft, CblasTrans, trailing(l, first), columns);
  });
}

}  // namespace quip
