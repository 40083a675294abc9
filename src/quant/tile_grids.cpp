#include "tile_grids.hpp"

#include <algorithm>

namespace quip {
namespace {

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

/// The group of the column at every position.
std::vector<index_t> groups_of_positions(index_t n, const std::vector<index_t>& order,
                                         index_t group_size) {
  std::vector<index_t> group(at(n));
  for (index_t k = 0; k < n; ++k) group[at(k)] = (order.empty() ? k : order[at(k)]) / group_size;
  return group;
}

}  // namespace

TileGrids::TileGrids(MatrixView<const float> tile, const std::vector<index_t>& order,
                     const LayerOptions& options)
    : groups_(groups_of(tile.rows, options.group_size)) {
  const index_t lanes = tile.cols;
  grids_.resize(at(groups_ * lanes));
  if (groups_ > 1) group_ = groups_of_positions(tile.rows, order, options.group_size);
  std::vector<float> low(grids_.size(), 0.0F);
  std::vector<float> high(grids_.size(), 0.0F);
  for (index_t k = 0; k < tile.rows; ++k) {
    const index_t first = group_.empty() ? 0 : group_[at(k)] * lanes;
    for (index_t r = 0; r < lanes; ++r) {
      low[at(first + r)] = std::min(low[at(first + r)], tile(k, r));
      high[at(first + r)] = std::max(high[at(first + r)], tile(k, r));
    }
  }
  for (std::size_t i = 0; i < grids_.size(); ++i) {
    parameters_.push_back(options.symmetric ? fit_symmetric(low[i], high[i], options.bits)
                                            : fit_minmax(low[i], high[i], options.bits));
    grids_[i] = minmax_grid(parameters_[i].scale, parameters_[i].zero);
  }
  if (groups_ == 1) return;
  step_ = Matrix<float>(tile.rows, lanes);
  inverse_ = Matrix<float>(tile.rows, lanes);
  for (index_t k = 0; k < tile.rows; ++k) {
    const RowGrid* grids = grids_at(k);
    for (index_t r = 0; r < lanes; ++r) {
      step_(k, r) = grids[r].step;
      inverse_(k, r) = grids[r].inverse;
    }
  }
}

const RowGrid* TileGrids::grids_at(index_t position) const {
  return grids_.data() + (group_.empty() ? 0 : group_[at(position)] * lanes_of());
}

void TileGrids::to_coordinates(MatrixView<const float> w, MatrixView<float> x) const {
  std::vector<float> factor(at(w.cols));
  std::vector<float> shift(at(w.cols));
  for (index_t k = 0; k < w.rows; ++k) {
    if (k == 0 || (groups_ > 1 && grids_at(k) != grids_at(k - 1))) {
      const RowGrid* grids = grids_at(k);
      for (index_t r = 0; r < w.cols; ++r) {
        factor[at(r)] = groups_ > 1 ? 1.0F : grids[r].inverse;
        shift[at(r)] = groups_ > 1 ? grids[r].step * grids[r].offset : grids[r].offset;
      }
    }
    for (index_t r = 0; r < w.cols; ++r) x(k, r) = w(k, r) * factor[at(r)] + shift[at(r)];
  }
}

RoundingTile TileGrids::rounding_tile(MatrixView<const float> x, float top, index_t rows) const {
  RoundingTile tile = unit_tile(x, top, rows);
  if (groups_ > 1) {
    tile.step = step_.cview();
    tile.inverse = inverse_.cview();
  }
  return tile;
}

}  // namespace quip
