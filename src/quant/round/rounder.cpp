#include "quip/quant/round/rounder.hpp"

#include <algorithm>
#include <array>

#include "quip/core/error.hpp"
#include "quip/linalg/ordered_gemm.hpp"
#include "quip/quant/round/tiles.hpp"

namespace quip {
namespace {

constexpr std::array<float, RowTiles::most_lanes> repeated(float value) {
  std::array<float, RowTiles::most_lanes> row{};
  row.fill(value);
  return row;
}

}  // namespace

RoundingTile unit_tile(MatrixView<const float> x, float top, index_t rows) {
  static constexpr auto halves = repeated(0.5F);
  static constexpr auto ones = repeated(1.0F);
  const MatrixView<const float> half(halves.data(), x.rows, x.cols, 0);
  const MatrixView<const float> one(ones.data(), x.rows, x.cols, 0);
  RoundingTile tile{x, half, one, one, top, rows, {}, 0, {}, {}, {}, {}};
  tile.q = Matrix<float>(x.rows, x.cols);
  tile.loss.resize(static_cast<std::size_t>(x.cols));
  tile.work = Matrix<float>(x.rows, x.cols);
  tile.target = Matrix<float>(LowerPanels::block, x.cols);
  return tile;
}

std::unique_ptr<Rounder> make_rounder(const LayerOptions& options) {
  const int passes = options.effective_passes();
  switch (options.method) {
    case Method::nearest:
      return make_nearest();
    case Method::ldlq:
      return passes > 0 ? make_ldlq_rg(passes, options.clamp) : make_ldlq();
    case Method::optq:
      return make_optq();
    case Method::ldlq_rg:
      return passes > 0 ? make_ldlq_rg(passes, options.clamp) : make_ldlq();
    case Method::greedy:
      return make_greedy(passes, options.clamp);
    case Method::ldl_admm:
      return make_ldl_admm(passes);
  }
  fail("a rounding method without a rounder");
}

void add_block_norm(const LowerPanels& factor, index_t b, MatrixView<const float> panel,
                    MatrixView<const float> x, float* projected, std::span<double> norm) {
  const index_t lanes = x.cols;
  const index_t first = factor.first_column(b);
  const index_t width = factor.width(b);
  // The panel is strictly lower: the identity is added here.
  for (index_t k = 0; k < width; ++k) std::copy_n(x.row(first + k), lanes, projected + k * lanes);
  ordered_gemm<float>(width, lanes, panel.rows, {panel.data, 1, panel.ld}, x.row(first), x.ld,
                      projected, lanes);
  for (index_t k = 0; k < width; ++k) {
    const double weight = factor.diagonal[static_cast<std::size_t>(first + k)];
    const float* row = projected + k * lanes;
    for (index_t r = 0; r < lanes; ++r) {
      const double value = row[r];
      norm[static_cast<std::size_t>(r)] += weight * (value * value);
    }
  }
}

}  // namespace quip
