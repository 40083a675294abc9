// The grids of one tile of rows: a grid for each row, or for each row and group of columns.
#pragma once

#include <vector>

#include "quip/quant/code/grid.hpp"
#include "quip/quant/options/options.hpp"
#include "quip/quant/round/rounding_math.hpp"

namespace quip {

/// The positions of a layer's columns in the order of rounding, and the groups of the positions, in
/// the memory of `math`, which is referred to.
struct ColumnPlaces {
  const RoundingMath& math;
  index_t groups;
  Lanes<std::int32_t> position;  ///< position of every column
  Lanes<std::int32_t> group;     ///< group of every position, if there are several

  /// Position k holds column order[k] (empty: k).
  ColumnPlaces(const RoundingMath& where, index_t n, const std::vector<index_t>& order,
               index_t group_size);
};

/// A lane with one grid is rounded in grid coordinates, w/step + offset: a level is a whole number.
/// With groups that would change the scale of the feedback from column to column, so then a lane is
/// rounded in units of weights, w + step·offset, and level q stands for q·step. Dynamic groups are
/// fitted in the course of rounding: until then their coordinates are the weights themselves.
class TileGrids {
 public:
  /// Takes one given grid for each lane.
  TileGrids(const ColumnPlaces& places, std::vector<RowGrid> lanes);
  /// Fits min-max grids to w [n × lanes], unless rounding fits them as it goes.
  TileGrids(const ColumnPlaces& places, MatrixView<const float> w, const LayerOptions& options);

  [[nodiscard]] const RoundingMath& math() const { return places_->math; }
  /// True if the groups wait to be fitted by `fit_group`.
  [[nodiscard]] bool dynamic() const { return dynamic_; }
  /// Returns the grid of group g of a lane, once it is fitted.
  [[nodiscard]] const RowGrid& grid(index_t lane, index_t g) const {
    return grids_[at(g * lanes_ + lane)];
  }
  /// Returns the weight of one unit of a lane's coordinates.
  [[nodiscard]] double unit(index_t lane) const {
    return several() ? 1.0 : static_cast<double>(grids_[at(lane)].step);
  }
  /// Returns the steps of coordinates.
  [[nodiscard]] GridView view() const;
  /// Turns weights [n × lanes] into what a rounder works on; x may be w.
  void to_coordinates(MatrixView<const float> w, MatrixView<float> x) const;
  /// Fits the grids of the group at positions from `first` to its weights [positions × lanes], and
  /// moves those to coordinates.
  void fit_group(index_t first, MatrixView<float> weights);

 private:
  [[nodiscard]] bool several() const { return places_->groups > 1; }
  /// Fits the grids of group g to `count` rows of w, as find_ranges takes them.
  void fit(index_t g, MatrixView<const float> w, const std::int32_t* position, index_t count);
  void upload(index_t g);

  const ColumnPlaces* places_;
  index_t lanes_;
  int bits_ = 0;
  bool symmetric_ = false;
  RoundStep round_ = keep_step;
  bool dynamic_ = false;
  index_t group_size_ = 0;
  std::vector<RowGrid> grids_;  ///< [groups × lanes], as all that follow
  Lanes<float> step_;
  Lanes<float> inverse_;
  Lanes<float> shift_;
};

}  // namespace quip
