#include "tile_grids.hpp"

#include <algorithm>

namespace quip {
namespace {

/// The group of the column at every position.
std::vector<index_t> groups_of_positions(index_t n, const std::vector<index_t>& order,
                                         index_t group_size) {
  std::vector<index_t> group(at(n));
  for (index_t k = 0; k < n; ++k) group[at(k)] = (order.empty() ? k : order[at(k)]) / group_size;
  return group;
}

/// Makes the ranges [low, high] of all lanes hold a row of the tile.
void widen(float* low, float* high, const float* row, index_t lanes) {
  for (index_t r = 0; r < lanes; ++r) {
    low[r] = std::min(low[r], row[r]);
    high[r] = std::max(high[r], row[r]);
  }
}

}  // namespace

TileGrids::TileGrids(MatrixView<const float> tile, const std::vector<index_t>& order,
                     const LayerOptions& options)
    : bits_(options.bits),
      symmetric_(options.symmetric),
      group_size_(options.group_size),
      groups_(groups_of(tile.rows, options.group_size)) {
  grids_.resize(at(groups_ * tile.cols));
  if (groups_ > 1) {
    dynamic_ = options.effective_groups() == GroupFit::dynamic;
    group_ = groups_of_positions(tile.rows, order, group_size_);
    step_ = Matrix<float>(tile.rows, tile.cols);
    inverse_ = Matrix<float>(tile.rows, tile.cols);
  }
  if (!dynamic_) fit_all(tile);
}

void TileGrids::fit_all(MatrixView<const float> weights) {
  const index_t lanes = weights.cols;
  std::vector<float> low(grids_.size(), 0.0F);
  std::vector<float> high(grids_.size(), 0.0F);
  for (index_t k = 0; k < weights.rows; ++k) {
    const index_t first = group_.empty() ? 0 : group_[at(k)] * lanes;
    widen(&low[at(first)], &high[at(first)], weights.row(k), lanes);
  }
  for (std::size_t i = 0; i < grids_.size(); ++i) grids_[i] = fit(low[i], high[i]);
  if (groups_ > 1) spread_steps(0, weights.rows);
}

void TileGrids::fit_group(index_t first, MatrixView<float> weights) {
  const index_t lanes = weights.cols;
  std::vector<float> low(at(lanes), 0.0F);
  std::vector<float> high(at(lanes), 0.0F);
  for (index_t k = 0; k < weights.rows; ++k) widen(low.data(), high.data(), weights.row(k), lanes);
  const std::size_t base = at(first / group_size_ * lanes);
  for (std::size_t r = 0; r < low.size(); ++r) grids_[base + r] = fit(low[r], high[r]);
  spread_steps(first, first + weights.rows);
  const RowGrid* grids = grids_at(first);
  for (index_t k = 0; k < weights.rows; ++k) {
    for (index_t r = 0; r < lanes; ++r) weights(k, r) += grids[r].step * grids[r].offset;
  }
}

void TileGrids::spread_steps(index_t first, index_t last) {
  for (index_t k = first; k < last; ++k) {
    const RowGrid* grids = grids_at(k);
    for (index_t r = 0; r < step_.cols(); ++r) {
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

RoundingTile TileGrids::rounding_tile(MatrixView<const float> x, float top, index_t rows) {
  RoundingTile tile = unit_tile(x, top, rows);
  if (groups_ > 1) {
    tile.step = step_.cview();
    tile.inverse = inverse_.cview();
  }
  if (dynamic_) {
    tile.group_size = group_size_;
    tile.fit_group = [this](index_t first, MatrixView<float> weights) {
      fit_group(first, weights);
    };
  }
  return tile;
}

}  // namespace quip
