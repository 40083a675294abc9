#include "quip/linalg/triangular.hpp"

#include <algorithm>

#include <cblas.h>

#include "quip/linalg/ldl.hpp"

namespace quip {
namespace {

int as_blas(index_t value) { return static_cast<int>(value); }

MatrixView<const double> trailing(MatrixView<const double> l, index_t first) {
  return {l.data + first * l.ld + first, l.rows - first, l.cols - first, l.ld};
}

}  // namespace

void invert_unit_lower(MatrixView<const double> l, MatrixView<double> inverse) {
  const index_t n = inverse.rows;
#pragma omp parallel for schedule(dynamic)
  for (index_t j = 0; j < n; j += ldl_block) {  // columns; column j of the inverse begins at row j
    const index_t width = std::min(ldl_block, n - j);
    Matrix<double> columns(n - j, width, 0.0);
    for (index_t i = 0; i < width; ++i) columns(i, i) = 1.0;
    const MatrixView<const double> rest = trailing(l, j);
    cblas_dtrsm(CblasRowMajor, CblasLeft, CblasLower, CblasNoTrans, CblasUnit, as_blas(n - j),
                as_blas(width), 1.0, rest.data, as_blas(rest.ld), columns.data(), as_blas(width));
    for (index_t i = 0; i < n - j; ++i) {
      std::copy_n(columns.row(i), std::min(width, i), inverse.row(j + i) + j);
    }
  }
}

}  // namespace quip
