// Takes tiles of rows from coordinates to levels and losses, on the host or on a GPU, and all tiles
// of a layer through one loop.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "tile_grids.hpp"

#include "quip/core/range.hpp"
#include "quip/quant/round/rounder.hpp"

namespace quip {

class TileRounding {
 public:
  /// Lane r is row rows[r] of the layer. `coordinates` [n × lanes] are those of `grids`. Measures
  /// the norm of `weights` [n × lanes] under H, too, if they are given. All else is referred to.
  /// The matrices of H are where the grids' math works.
  TileRounding(const PreparedLayer& layer, const LayerOptions& options, const Rounder& rounder,
               TileGrids grids, const std::vector<index_t>& rows, Lanes<float> coordinates,
               MatrixView<const float> weights = {});
  TileRounding(const TileRounding&) = delete;
  TileRounding& operator=(const TileRounding&) = delete;
  ~TileRounding() = default;

  /// Runs the steps, in this order: the rounder's sweep over all blocks; its work afterwards; the
  /// factor's panels from the last to the first; undamped losses, in the units of weights. On the
  /// host the blocks throw nothing.
  void round_block(index_t b, MatrixView<const float> panel);
  void improve();
  void measure_block(index_t b, MatrixView<const float> panel);
  void finish();

  [[nodiscard]] const TileGrids& grids() const { return grids_; }
  [[nodiscard]] MatrixView<const float> levels() const { return tile_.q; }
  /// Returns the states of a trellis, as RoundingTile has them.
  [[nodiscard]] MatrixView<const std::uint16_t> states() const { return tile_.states; }
  /// Returns the losses by lane.
  [[nodiscard]] const std::vector<double>& loss() const { return losses_; }
  /// Returns the undamped w H wᵀ of `weights`, by lane.
  [[nodiscard]] const std::vector<double>& reference() const { return references_; }
  /// Returns the greedy passes that were needed.
  [[nodiscard]] int passes() const { return passes_; }

 private:
  [[nodiscard]] bool clamped_before() const { return options_.clamp == Clamp::pre; }
  /// Writes ŵ − x of `count` positions from `first` on.
  void take_difference(index_t first, index_t count, MatrixView<float> difference) const;

  const PreparedLayer& layer_;
  const LayerOptions& options_;
  const Rounder& rounder_;
  Sweep sweep_;
  TileGrids grids_;
  const RoundingMath& math_;
  Lanes<float> coordinates_;
  MatrixView<const float> weights_;
  Lanes<float> dither_;
  Lanes<float> clamped_;
  RoundingTile tile_;
  Lanes<float> difference_;  ///< if it is measured while the rounder is still at work
  bool measures_loss_;       ///< the rounder does not know it, or saw other weights than ours
  Lanes<double> loss_;
  Lanes<double> reference_;
  std::vector<double> losses_;
  std::vector<double> references_;
  int passes_ = 0;
};

/// Makes the tile whose lanes are `rows`, with `weights` [n × rows, or with padding]. Its grids are
/// fitted to it, or have the half width `scale`.
[[nodiscard]] std::unique_ptr<TileRounding> tile_of_rows(
    const ColumnPlaces& places, const PreparedLayer& layer, const LayerOptions& options,
    const Rounder& rounder, Range rows, MatrixView<const float> weights, float scale);

/// Takes tiles through their steps side by side: each(step) calls step(tile) for all of them.
/// Collective if the panels of a matrix pass by.
void round_together(const PreparedLayer& layer, const Rounder& rounder,
                    const std::function<void(const std::function<void(TileRounding&)>&)>& each);

/// Makes `count` tiles on the host, rounds and measures them and hands them to `done`; both are
/// called by several threads. If the factor is in memory, each thread takes one tile after the
/// other through it. If its panels pass by, all tiles stand side by side and take each in turn: the
/// same bits. Collective in the latter case.
void round_tiles(const PreparedLayer& layer, const Rounder& rounder, index_t count,
                 const std::function<std::unique_ptr<TileRounding>(index_t)>& make,
                 const std::function<void(index_t, const TileRounding&)>& done);

}  // namespace quip
