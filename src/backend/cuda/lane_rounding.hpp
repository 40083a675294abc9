// Rounding of many rows at once on the device: what quant/round/tile_rounding and the rounders do
// for a tile.
#pragma once

#include <optional>
#include <vector>

#include "grids_on_device.hpp"
#include "panels_on_device.hpp"

#include "quip/quant/factor/factor.hpp"
#include "quip/quant/options/options.hpp"

namespace quip::cuda {

/// What is made of a layer's Hessian, on the device. Refers to the host's.
struct LayerOnDevice {
  const PreparedLayer& host;
  const LayerOptions& options;
  PanelsOnDevice factor;
  std::optional<PanelsOnDevice> feedback;
  std::optional<PanelsOnDevice> hessian;
  DeviceBuffer<double> added;
  ColumnPlaces places;

  LayerOnDevice(Context& context, const PreparedLayer& layer, const LayerOptions& layer_options);
  [[nodiscard]] index_t n() const { return host.factor.n; }
};

/// Rows on their way from coordinates to levels and losses.
class LaneRounding {
 public:
  /// Lane r is row rows[r] of the layer; `coordinates` [n × lanes] are those of `grids`, which are
  /// referred to.
  LaneRounding(Context& context, const LayerOnDevice& layer, GridsOnDevice& grids,
               const std::vector<index_t>& rows, DeviceBuffer<float> coordinates);

  void round();

  [[nodiscard]] MatrixView<const float> levels() const { return view(q_); }
  /// Undamped losses by lane, in the units of weights.
  [[nodiscard]] std::vector<double> losses() const;
  /// Greedy passes that were needed.
  [[nodiscard]] int passes() const { return passes_; }

 private:
  [[nodiscard]] MatrixView<float> view(const DeviceBuffer<float>& buffer) const {
    return buffer.view(layer_.n(), lanes_);
  }
  [[nodiscard]] float* row(const DeviceBuffer<float>& buffer, index_t k) const {
    return buffer.data() + k * lanes_;
  }
  [[nodiscard]] MatrixView<const float> seen() const {
    return view(clamped_.size() > 0 ? clamped_ : coordinates_);
  }
  [[nodiscard]] ColumnBlock block(const PanelsOnDevice& panels, index_t b, index_t first,
                                  index_t last) const;
  /// Returns true if `loss_` has become the damped losses of what the rounder saw.
  [[nodiscard]] bool run_method();
  void round_nearest();
  void round_with_feedback(const PanelsOnDevice& feedback);
  void round_optq();
  void greedy_passes(int passes, Clamp clamp);
  void gather_outside(index_t b, MatrixView<const float> s, const DeviceBuffer<float>& out) const;
  [[nodiscard]] bool settled() const;
  void copy(const float* from, float* to, index_t rows) const;

  Context& context_;
  const LayerOnDevice& layer_;
  GridsOnDevice& grids_;
  index_t lanes_;
  float top_;
  DeviceBuffer<float> coordinates_;
  DeviceBuffer<float> clamped_;  ///< if weights are clamped before rounding
  DeviceBuffer<float> dither_;   ///< of stochastic rounding
  DeviceBuffer<float> q_;
  DeviceBuffer<float> error_;
  DeviceBuffer<double> loss_;
  int passes_ = 0;
};

}  // namespace quip::cuda
