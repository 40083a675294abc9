// The grids of some rows, on device and host, as quant/round/tile_grids for a tile.
#pragma once

#include <vector>

#include "backend/cuda/kernels/quant_kernels.hpp"
#include "context.hpp"

#include "quip/quant/code/grid.hpp"
#include "quip/quant/options/options.hpp"

namespace quip::cuda {

/// The positions of a layer's columns in the order of rounding, and the groups of the positions.
struct ColumnPlaces {
  DeviceBuffer<std::int32_t> position;  ///< position of every column
  DeviceBuffer<std::int32_t> group;     ///< group of every position; empty: one group
  index_t groups = 1;

  ColumnPlaces(Context& context, index_t n, const std::vector<index_t>& order, index_t group_size);
};

class GridsOnDevice {
 public:
  /// Takes one given grid for each lane.
  GridsOnDevice(Context& context, const ColumnPlaces& places, std::vector<RowGrid> lanes);
  /// Fits min-max grids to w [n × lanes], unless rounding fits them as it goes.
  GridsOnDevice(Context& context, const ColumnPlaces& places, MatrixView<const float> w,
                const LayerOptions& options);

  [[nodiscard]] bool dynamic() const { return dynamic_; }
  /// Turns weights into coordinates; x may be w.
  void to_coordinates(MatrixView<const float> w, MatrixView<float> x) const;
  /// Returns the kernels' view of positions from `first` on.
  [[nodiscard]] GridView view(index_t first) const;
  /// Fits the group that begins at position `first` to w [n × lanes] and makes its weights
  /// coordinates.
  void fit_group(index_t first, MatrixView<float> w);

  [[nodiscard]] index_t groups() const { return places_.groups; }
  [[nodiscard]] const RowGrid& grid(index_t lane, index_t g) const {
    return grids_[at(g * lanes_ + lane)];
  }
  /// Returns the weight of one unit of a lane's coordinates.
  [[nodiscard]] double unit(index_t lane) const {
    return groups() > 1 ? 1.0 : static_cast<double>(grids_[static_cast<std::size_t>(lane)].step);
  }

 private:
  void fit(index_t g, MatrixView<const float> w);
  void upload(index_t g);

  Context& context_;
  const ColumnPlaces& places_;
  index_t lanes_;
  int bits_ = 0;
  bool symmetric_ = false;
  bool dynamic_ = false;
  index_t group_size_ = 0;
  std::vector<RowGrid> grids_;  ///< [groups × lanes], as all that follow
  DeviceBuffer<float> step_;
  DeviceBuffer<float> inverse_;
  DeviceBuffer<float> offset_;
  DeviceBuffer<float> factor_;
  DeviceBuffer<float> shift_;
};

}  // namespace quip::cuda
