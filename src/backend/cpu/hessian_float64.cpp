// Integers stored as doubles: each product and each partial sum is exact below 2⁵³, so that any
// BLAS gives the same sum. Runs on every processor.
#include <algorithm>

#include "hessian.hpp"

#include "quip/linalg/blas.hpp"

namespace quip::cpu {
namespace {

constexpr index_t tile_side = 256;

/// Rounds z = x · scale for one token; true if all fit in 16 bits.
QUIP_SIMD bool round_row(const float* x, const float* scale, index_t n, double* z) {
  std::uint32_t beyond = 0;
#pragma omp simd reduction(| : beyond)
  for (index_t j = 0; j < n; ++j) {
    const std::int32_t integer = to_integer(x[j] * scale[j]);
    beyond |= excess(integer);
    z[j] = integer;
  }
  return beyond == 0;
}

void add_tile(MatrixView<const double> left, MatrixView<const double> right, bool lower,
              TilePosition tile, MatrixView<double> sum) {
  const index_t row = tile.row * tile_side;
  const index_t col = tile.col * tile_side;
  const index_t rows = std::min(tile_side, sum.rows - row);
  const index_t cols = std::min(tile_side, sum.cols - col);
  const MatrixView<double> target = sum.middle_rows(row, rows).middle_cols(col, cols);
  if (lower && row == col && rows == cols) {
    syrk_lower(Transpose::yes, 1.0, left.middle_cols(row, rows), 1.0, target);
  } else {
    gemm(Transpose::yes, Transpose::no, 1.0, left.middle_cols(row, rows),
         right.middle_cols(col, cols), 1.0, target);
  }
}

}  // namespace

void accumulate_float64(int threads, const Factor& left, const Factor& right, bool lower,
                        MatrixView<double> sum, std::atomic<bool>& outside) {
  const index_t channels = left.x.cols + (lower ? 0 : right.x.cols);
  const index_t chunk = tokens_at_once(left.x.rows, channels, sum, sizeof(double));
  const Matrix<double> rows(chunk, left.x.cols);
  const Matrix<double> others(lower ? 0 : chunk, lower ? 0 : right.x.cols);
  const Matrix<double>& cols = lower ? rows : others;
  const std::vector<TilePosition> tiles = tiles_of(sum, tile_side, lower);
  for (index_t first = 0; first < left.x.rows; first += chunk) {
    const index_t tokens = std::min(chunk, left.x.rows - first);
    const auto round = [&](const Factor& factor, const Matrix<double>& integers) {
#pragma omp parallel for num_threads(threads)
      for (index_t t = 0; t < tokens; ++t) {
        const float* x = factor.x.row(first + t);
        if (!round_row(x, factor.scale.data(), factor.x.cols, integers.row(t))) outside = true;
      }
    };
    round(left, rows);
    if (!lower) round(right, cols);
    if (outside) return;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (const TilePosition tile : tiles) {
      add_tile(rows.cview().middle_rows(0, tokens), cols.cview().middle_rows(0, tokens), lower,
               tile, sum);
    }
  }
}

}  // namespace quip::cpu
