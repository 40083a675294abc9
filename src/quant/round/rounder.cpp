#include "quip/quant/round/rounder.hpp"

namespace quip {

RoundingTile unit_tile(MatrixView<const float> x, float top, index_t rows,
                       const RoundingMath& math) {
  RoundingTile tile;
  tile.math = &math;
  tile.x = x;
  tile.top = top;
  tile.rows = rows;
  tile.q = math.lanes<float>(x.rows, x.cols, "levels of rows");
  tile.loss = math.zeros<double>(1, x.cols, "losses of rows");
  tile.work = math.lanes<float>(x.rows, x.cols, "errors of rows");
  tile.target = math.lanes<float>(LowerPanels::block, x.cols, "targets of rows");
  return tile;
}

std::unique_ptr<Rounder> make_rounder(const LayerOptions& options) {
  return traits_of(options.method).make(options);
}

void add_block_norm(const RoundingMath& math, const LowerPanels& factor, index_t b,
                    MatrixView<const float> panel, MatrixView<const float> x, float* projected,
                    double* norm) {
  const MatrixView<const float> below = x.middle_rows(factor.first_column(b), panel.rows);
  const MatrixView<float> product(projected, panel.cols, x.cols);
  // The panel is strictly lower: the identity is added here.
  math.copy(below.middle_rows(0, panel.cols), product);
  math.add_product({panel.data, 1, panel.ld}, below, product);
  math.add_weighted_squares(product, factor.diagonal_of(b), 1.0, norm);
}

}  // namespace quip
