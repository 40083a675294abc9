// The grids of one tile of rows: a grid for each row, or for each row and group of columns.
#pragma once

#include <vector>

#include "quip/quant/code/grid.hpp"
#include "quip/quant/options/options.hpp"
#include "quip/quant/round/rounder.hpp"

namespace quip {

/// A lane with one grid is rounded in grid coordinates, w/step + offset: a level is a whole number.
/// With groups that would change the scale of the feedback from column to column, so then a lane is
/// rounded in units of weights, w + step·offset, and level q stands for q·step. Dynamic groups are
/// fitted in the course of rounding: until then their coordinates are the weights themselves.
class TileGrids {
 public:
  /// One grid per lane.
  explicit TileGrids(std::vector<RowGrid> lanes) : grids_(std::move(lanes)) {}
  /// Min-max grids of a tile [n × lanes] whose position k holds column order[k] (empty: k).
  TileGrids(MatrixView<const float> tile, const std::vector<index_t>& order,
            const LayerOptions& options);

  /// The grid of group g of a lane, once it is fitted.
  [[nodiscard]] const RowGrid& grid(index_t lane, index_t g) const {
    return grids_[at(g * lanes_of() + lane)];
  }
  /// What a rounder works on, from weights [n × lanes].
  void to_coordinates(MatrixView<const float> w, MatrixView<float> x) const;
  /// `x` with the steps of its elements, rounded to nearest; refers to this object, and settles its
  /// dynamic groups when rounded.
  [[nodiscard]] RoundingTile rounding_tile(MatrixView<const float> x, float top, index_t rows);
  /// Weights per unit of a lane's coordinates.
  [[nodiscard]] float unit(index_t lane) const {
    return groups_ > 1 ? 1.0F : grids_[static_cast<std::size_t>(lane)].step;
  }

  /// Do rounding_tile's groups wait to be fitted?
  [[nodiscard]] bool dynamic() const { return dynamic_; }

 private:
  [[nodiscard]] index_t lanes_of() const { return std::ssize(grids_) / groups_; }
  /// Fits every grid to a whole tile.
  void fit_all(MatrixView<const float> weights);
  /// Fits the grids of the group at positions from `first` to its weights [positions × lanes], and
  /// moves those to coordinates.
  void fit_group(index_t first, MatrixView<float> weights);
  /// One grid, from the range [low, high] of what it covers.
  [[nodiscard]] RowGrid fit(float low, float high) const {
    return symmetric_ ? fit_symmetric(low, high, bits_) : fit_minmax(low, high, bits_);
  }
  void spread_steps(index_t first, index_t last);
  [[nodiscard]] const RowGrid* grids_at(index_t position) const;

  int bits_ = 0;
  bool symmetric_ = false;
  bool dynamic_ = false;
  index_t group_size_ = 0;
  index_t groups_ = 1;
  std::vector<RowGrid> grids_;  ///< [groups × lanes]
  std::vector<index_t> group_;  ///< of every position; empty: one group
  Matrix<float> step_;          ///< [n × lanes], with groups
  Matrix<float> inverse_;
};

}  // namespace quip
