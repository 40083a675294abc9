#include "quip/linalg/ldl.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include <cblas.h>

// LAPACK, column-major: its upper triangle is our row-major lower one.
extern "C" void dpotrf_(const char* uplo, const int* n, double* a, const int* lda, int* info);

namespace quip {
namespace {

int as_blas(index_t value) { return static_cast<int>(value); }

/// Updates the rows below the diagonal block of column k: A_ik ← A_ik C_kk⁻ᵀ, in fixed pieces.
void solve_panel(MatrixView<double> h, index_t k, index_t width) {
  const index_t n = h.rows;
  const index_t first = k + width;
#pragma omp parallel for schedule(dynamic)
  for (index_t i = first; i < n; i += ldl_block) {
    const index_t rows = std::min(ldl_block, n - i);
    cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, as_blas(rows),
                as_blas(width), 1.0, &h(k, k), as_blas(h.ld), &h(i, k), as_blas(h.ld));
  }
}

/// Updates the trailing matrix: A_ij ← A_ij − C_ik C_jkᵀ for i ≥ j > k, one block column a unit.
void update_trailing(MatrixView<double> h, index_t k, index_t width) {
  const index_t n = h.rows;
  const index_t first = k + width;
#pragma omp parallel for schedule(dynamic)
  for (index_t j = first; j < n; j += ldl_block) {
    const index_t cols = std::min(ldl_block, n - j);
    cblas_dsyrk(CblasRowMajor, CblasLower, CblasNoTrans, as_blas(cols), as_blas(width), -1.0,
                &h(j, k), as_blas(h.ld), 1.0, &h(j, j), as_blas(h.ld));
    const index_t below = j + cols;
    if (below < n) {
      cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, as_blas(n - below), as_blas(cols),
                  as_blas(width), -1.0, &h(below, k), as_blas(h.ld), &h(j, k), as_blas(h.ld), 1.0,
                  &h(below, j), as_blas(h.ld));
    }
  }
}

}  // namespace

index_t ldl_factor(MatrixView<double> h, std::span<double> d) {
  const index_t n = h.rows;
  const int ld = as_blas(h.ld);
  for (index_t k = 0; k < n; k += ldl_block) {
    const index_t width = std::min(ldl_block, n - k);
    const int order = as_blas(width);
    int info = 0;
    dpotrf_("U", &order, &h(k, k), &ld, &info);
    if (info != 0) return k + info;
    solve_panel(h, k, width);
    update_trailing(h, k, width);
  }
  // Cholesky → LDLᵀ: L = C diag(C)⁻¹, D = diag(C)².
  std::vector<double> inverse(at(n));
  for (index_t j = 0; j < n; ++j) {
    const double pivot = h(j, j);
    if (!std::isfinite(pivot)) return j + 1;
    d[at(j)] = pivot * pivot;
    inverse[at(j)] = 1.0 / pivot;
  }
#pragma omp parallel for schedule(static)
  for (index_t i = 0; i < n; ++i) {
    double* row = h.row(i);
    for (index_t j = 0; j < i; ++j) row[j] *= inverse[at(j)];
  }
  return 0;
}

void invert_unit_lower(MatrixView<const double> l, MatrixView<double> inverse) {
  const index_t n = inverse.rows;
#pragma omp parallel for schedule(dynamic)
  for (index_t j = 0; j < n; j += ldl_block) {  // columns; column j of the inverse begins at row j
    const index_t width = std::min(ldl_block, n - j);
    Matrix<double> columns(n - j, width, 0.0);
    for (index_t i = 0; i < width; ++i) columns(i, i) = 1.0;
    cblas_dtrsm(CblasRowMajor, CblasLeft, CblasLower, CblasNoTrans, CblasUnit, as_blas(n - j),
                as_blas(width), 1.0, l.row(j) + j, as_blas(l.ld), columns.data(), as_blas(width));
    for (index_t i = 0; i < n - j; ++i) {
      std::copy_n(columns.row(i), std::min(width, i), inverse.row(j + i) + j);
    }
  }
}

LowerColumns columns_of(MatrixView<const double> l) {
  return [l](index_t b) {
    const index_t first = b * ldl_block;
    return MatrixView<const double>(l.row(first) + first, l.rows - first,
                                    std::min(ldl_block, l.rows - first), l.ld);
  };
}

std::vector<double> solve_ldl_rows(const LowerColumns& columns, std::span<const double> d,
                                   MatrixView<double> x) {
  const index_t n = x.cols;
  const index_t blocks = (n + ldl_block - 1) / ldl_block;
  std::vector<double> norms(at(x.rows), 0.0);
  const auto for_tiles = [&](const auto& work) {
#pragma omp parallel for schedule(dynamic)
    for (index_t i = 0; i < x.rows; i += solve_rows_unit) {
      work(x.middle_rows(i, std::min(solve_rows_unit, x.rows - i)), i);
    }
  };
  const auto solve = [](CBLAS_TRANSPOSE transpose, MatrixView<const double> l,
                        MatrixView<double> part) {
    cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, transpose, CblasUnit, as_blas(part.rows),
                as_blas(part.cols), 1.0, l.data, as_blas(l.ld), part.data, as_blas(part.ld));
  };
  const auto subtract = [](CBLAS_TRANSPOSE transpose, MatrixView<const double> from,
                           MatrixView<const double> l, MatrixView<double> to) {
    if (from.cols == 0 || to.cols == 0) return;
    cblas_dgemm(CblasRowMajor, CblasNoTrans, transpose, as_blas(to.rows), as_blas(to.cols),
                as_blas(from.cols), -1.0, from.data, as_blas(from.ld), l.data, as_blas(l.ld), 1.0,
                to.data, as_blas(to.ld));
  };
  for (index_t b = 0; b < blocks; ++b) {  // y (L+I)ᵀ = x, then y D⁻¹
    const MatrixView<const double> column = columns(b);
    const index_t first = b * ldl_block;
    const index_t width = column.cols;
    for_tiles([&](MatrixView<double> tile, index_t row) {
      const MatrixView<double> part = tile.middle_cols(first, width);
      solve(CblasTrans, column, part);
      subtract(CblasTrans, part, column.middle_rows(width, column.rows - width),
               tile.middle_cols(first + width, n - first - width));
      for (index_t i = 0; i < part.rows; ++i) {
        for (index_t j = 0; j < width; ++j) {
          const double y = part(i, j);
          part(i, j) = y / d[at(first + j)];
          norms[at(row + i)] += y * part(i, j);
        }
      }
    });
  }
  for (index_t b = blocks - 1; b >= 0; --b) {  // x (L+I) = y
    const MatrixView<const double> column = columns(b);
    const index_t first = b * ldl_block;
    const index_t width = column.cols;
    for_tiles([&](MatrixView<double> tile, index_t /*row*/) {
      const MatrixView<double> part = tile.middle_cols(first, width);
      subtract(CblasNoTrans, tile.middle_cols(first + width, n - first - width),
               column.middle_rows(width, column.rows - width), part);
      solve(CblasNoTrans, column, part);
    });
  }
  return norms;
}

}  // namespace quip
