// The grids of some rows, on the device and for the host: what quant/tile_grids does for a tile.
#pragma once

#include <vector>

#include "backend/cuda/kernels/quant_kernels.hpp"
#include "context.hpp"

#include "quip/quant/code/grid.hpp"
#include "quip/quant/options/options.hpp"

namespace quip::cuda {

/// Where the columns of a layer are in the order of rounding, and to which group they belong.
struct ColumnPlaces {
  DeviceBuffer<std::int32_t> position;  ///< of every column
  DeviceBuffer<std::int32_t> group;     ///< of every position; empty: one group
  index_t groups = 1;

  ColumnPlaces(Context& context, index_t n, const std::vector<index_t>& order, index_t group_size);
};

class GridsOnDevice {
 public:
  /// One given grid for each lane.
  GridsOnDevice(Context& context, const ColumnPlaces& places, std::vector<RowGrid> lanes);
  /// Min-max grids of w [n × lanes], unless they are to be fitted in the course of rounding.
  GridsOnDevice(Context& context, const ColumnPlaces& places, MatrixView<const float> w,
                const LayerOptions& options);

  [[nodiscard]] bool dynamic() const { return dynamic_; }
  /// From weights to coordinates; x may be w.
  void to_coordinates(MatrixView<const float> w, MatrixView<float> x) const;
  /// What kernels see of positions from `first` on.
  [[nodiscard]] GridView view(index_t first) const;
  /// Fits the group that begins at position `first` to w [n × lanes] and makes its weights
  /// coordinates.
  void fit_group(index_t first, MatrixView<float> w);

  [[nodiscard]] index_t groups() const { return places_.groups; }
  [[nodiscard]] const RowGrid& grid(index_t lane, index_t g) const {
    return grids_[at(g * lanes_ + lane)];
  }
  /// Weights per unit of a lane's coordinates.
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
