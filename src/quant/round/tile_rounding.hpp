// One tile of rows on its way from coordinates to levels and losses.
#pragma once

#include <vector>

#include "tile_grids.hpp"

#include "quip/quant/round/rounder.hpp"

namespace quip {

/// Rounds a tile either in one go, with the factor that the layer holds, or block by block, with
/// the panels of a factor that is elsewhere: the same bits.
class TileRounding {
 public:
  /// Lane r is row rows[r] of the layer. `coordinates` [n × lanes] are those of `grids`; they are
  /// referred to, and change if the grids are dynamic.
  TileRounding(const PreparedLayer& layer, const LayerOptions& options, TileGrids grids,
               const std::vector<index_t>& rows, MatrixView<float> coordinates);
  TileRounding(const TileRounding&) = delete;
  TileRounding& operator=(const TileRounding&) = delete;
  ~TileRounding() = default;

  /// All columns at once.
  void round(const Rounder& rounder);

  /// Takes what memory round_block needs.
  void prepare_blocks();
  /// The columns of block b, from the last block to the first; ldlq and nearest only. `panel` is
  /// that of L. Throws nothing.
  void round_block(index_t b, MatrixView<const float> panel);

  /// Ends either way: losses become undamped ones, in the units of weights.
  void finish();

  [[nodiscard]] const TileGrids& grids() const { return grids_; }
  [[nodiscard]] MatrixView<const float> levels() const { return q_.cview(); }
  /// By lane.
  [[nodiscard]] const std::vector<double>& loss() const { return loss_; }
  /// Greedy passes that were needed.
  [[nodiscard]] int passes() const { return passes_; }

 private:
  [[nodiscard]] float difference(index_t k, index_t r) const {
    return q_(k, r) * tile_.step(k, r) - coordinates_(k, r);
  }
  [[nodiscard]] bool clamped_before() const { return options_.clamp == Clamp::pre; }
  void round_nearest(index_t first, index_t last);

  const PreparedLayer& layer_;
  const LayerOptions& options_;
  TileGrids grids_;
  MatrixView<float> coordinates_;
  Matrix<float> dither_;
  Matrix<float> clamped_;
  RoundingTile tile_;
  Matrix<float> q_;
  std::vector<double> loss_;
  int passes_ = 0;
  // Block by block:
  Matrix<float> error_;
  Matrix<float> target_;           ///< one block
  Matrix<float> difference_;       ///< if the weights were clamped before: from what they were
  std::vector<double> seen_loss_;  ///< then: of the weights that the feedback saw
};

/// Subtracts Σⱼ addedⱼ xⱼ² of every lane: what damping contributed to x H xᵀ.
void subtract_damping(const std::vector<double>& added, MatrixView<const float> x,
                      std::span<double> norm);

}  // namespace quip
