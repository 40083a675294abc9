#include "tile_norms.hpp"

#include "quip/quant/round/rounder.hpp"

namespace quip {

InputSide::InputSide(const QuantizedLinear& stored, const PreparedLayer& prepared) {
  layer.rescale = prepared.rescale;
  layer.order = prepared.order;
  transforms.u = make_transform(TransformKind::none, stored.rows, 0, Side::output);
  transforms.v = make_transform(stored.transform, stored.cols, prepared.seed_v, Side::input);
}

TileNorms::TileNorms(const RoundingMath& math, MatrixView<const float> coded,
                     MatrixView<const float> plain)
    : math_(math),
      coded_(coded),
      plain_(plain),
      difference_(math.lanes<float>(coded.rows, coded.cols, "differences of rows")),
      projected_(math.lanes<float>(LowerPanels::block, coded.cols, "a block of rows")),
      norms_(math.zeros<double>(3, coded.cols, "norms of rows")) {
  math.level_difference(coded, {}, plain, difference_);
}

template <typename Visit>
void TileNorms::each(const Visit& visit) {
  visit(coded_, norms_.row(0));
  visit(plain_, norms_.row(1));
  visit(difference_, norms_.row(2));
}

void TileNorms::add(const LowerPanels& factor, index_t b, MatrixView<const float> panel) {
  each([&](MatrixView<const float> x, double* norm) {
    add_block_norm(math_, factor, b, panel, x, projected_.data, norm);
  });
}

std::vector<RowNorms> TileNorms::finish(const std::vector<double>& added) {
  const auto weight = math_.placed<double>(added, "what damping added");
  each([&](MatrixView<const float> x, double* norm) {
    math_.add_weighted_squares(x, weight.data, -1.0, norm);
  });
  const std::vector<double> norms = math_.fetched(norms_);
  const auto lanes = at(norms_.cols);
  std::vector<RowNorms> rows(lanes);
  for (std::size_t r = 0; r < lanes; ++r) {
    rows[r] = {norms[r], norms[lanes + r], norms[2 * lanes + r]};
  }
  return rows;
}

}  // namespace quip
