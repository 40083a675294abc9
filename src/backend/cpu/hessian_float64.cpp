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

void add_tile(MatrixView<const double> z, TilePosition tile, MatrixView<double> sum) {
  const index_t row = tile.row * tile_side;
  const index_t col = tile.col * tile_side;
  const index_t rows = std::min(tile_side, sum.rows - row);
  const index_t cols = std::min(tile_side, sum.cols - col);
  const MatrixView<double> target = sum.middle_rows(row, rows).middle_cols(col, cols);
  if (row == col && rows == cols) {
    syrk_lower(Transpose::yes, 1.0, z.middle_cols(row, rows), 1.0, target);
  } else {
    gemm(Transpose::yes, Transpose::no, 1.0, z.middle_cols(row, rows), z.middle_cols(col, cols),
         1.0, target);
  }
}

}  // namespace

void accumulate_float64(int threads, ConstTensorView x, std::span<const float> scale,
                        MatrixView<double> sum, std::atomic<bool>& outside) {
  const index_t chunk = tokens_at_once(x, sum, sizeof(double));
  const Matrix<double> integers(chunk, x.cols);
  const std::vector<TilePosition> tiles = lower_tiles(sum, tile_side);
  for (index_t first = 0; first < x.rows; first += chunk) {
    const index_t tokens = std::min(chunk, x.rows - first);
#pragma omp parallel for num_threads(threads)
    for (index_t t = 0; t < tokens; ++t) {
      if (!round_row(x.row(first + t), scale.data(), x.cols, integers.row(t))) outside = true;
    }
    if (outside) return;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (const TilePosition tile : tiles) {
      add_tile(integers.cview().middle_rows(0, tokens), tile, sum);
    }
  }
}

}  // namespace quip::cpu
