// One tile of rows on its way from coordinates to levels and losses, and the loop that takes all
// tiles of a layer there.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "tile_grids.hpp"

#include "quip/quant/round/rounder.hpp"

namespace quip {

class TileRounding {
 public:
  /// Lane r is row rows[r] of the layer. `coordinates` [n × lanes] are those of `grids`. Measures
  /// the norm of `weights` [n × lanes] under H, too, if they are given. All else is referred to.
  TileRounding(const PreparedLayer& layer, const LayerOptions& options, const Rounder& rounder,
               TileGrids grids, const std::vector<index_t>& rows, Matrix<float> coordinates,
               MatrixView<const float> weights = {});
  TileRounding(const TileRounding&) = delete;
  TileRounding& operator=(const TileRounding&) = delete;
  ~TileRounding() = default;

  /// The steps, in this order: the rounder's sweep over all blocks; what it does afterwards; the
  /// factor's panels from the last to the first; undamped losses, in the units of weights. The
  /// blocks throw nothing.
  void round_block(index_t b, MatrixView<const float> panel);
  void improve();
  void measure_block(index_t b, MatrixView<const float> panel);
  void finish();

  [[nodiscard]] const TileGrids& grids() const { return grids_; }
  [[nodiscard]] MatrixView<const float> levels() const { return tile_.q.cview(); }
  /// By lane.
  [[nodiscard]] const std::vector<double>& loss() const { return loss_; }
  /// Undamped w H wᵀ of `weights`, by lane.
  [[nodiscard]] const std::vector<double>& reference() const { return reference_; }
  /// Greedy passes that were needed.
  [[nodiscard]] int passes() const { return passes_; }

 private:
  [[nodiscard]] float difference(index_t k, index_t r) const {
    return tile_.q(k, r) * tile_.step(k, r) - coordinates_(k, r);
  }
  [[nodiscard]] bool clamped_before() const { return options_.clamp == Clamp::pre; }
  void clamp_coordinates();

  const PreparedLayer& layer_;
  const LayerOptions& options_;
  const Rounder& rounder_;
  Sweep sweep_;
  TileGrids grids_;
  Matrix<float> coordinates_;
  MatrixView<const float> weights_;
  Matrix<float> dither_;
  Matrix<float> clamped_;
  RoundingTile tile_;
  Matrix<float> difference_;  ///< if it is measured while the rounder is still at work
  bool measures_loss_;        ///< the rounder does not know it, or saw other weights than ours
  std::vector<double> loss_;
  std::vector<double> reference_;
  int passes_ = 0;
};

/// Makes `count` tiles, rounds and measures them and hands them to `done`; both are called by
/// several threads. If the factor is in memory, each thread takes one tile after the other through
/// it. If its panels pass by, all tiles stand side by side and take each in turn: the same bits.
/// Collective in the latter case.
void round_tiles(const PreparedLayer& layer, const Rounder& rounder, index_t count,
                 const std::function<std::unique_ptr<TileRounding>(index_t)>& make,
                 const std::function<void(index_t, const TileRounding&)>& done);

}  // namespace quip
