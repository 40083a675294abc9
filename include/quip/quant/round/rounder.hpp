// Rounders: from grid coordinates to grid points. One file each; see CONTRIBUTING.md.
#pragma once

#include <functional>
#include <memory>
#include <span>

#include "quip/core/matrix.hpp"
#include "quip/quant/factor/factor.hpp"
#include "quip/quant/options/options.hpp"

namespace quip {

/// A transposed tile of rows to round: [n × lanes], row k is the column of W at position k of the
/// layer's order. A level q stands for q·step, so that x = step·(grid coordinate); a row with one
/// grid has step 1 throughout, and a view with ld 0 repeats one row.
struct RoundingTile {
  MatrixView<const float> x;       ///< any real numbers
  MatrixView<const float> offset;  ///< Q(g) = ⌊g + offset⌋: ½ rounds to nearest, U[0, 1) at random
  MatrixView<const float> step;
  MatrixView<const float> inverse;  ///< 1/step
  float top = 0;                    ///< the highest level
  index_t rows = 0;                 ///< lanes in use; the others are padding
  /// Dynamic groups: positions [first, first + group_size) make one, and `x` holds plain weights.
  /// A rounder calls it when it comes to `first`, with what the group's weights [positions × lanes]
  /// have become; it settles their steps and moves them to coordinates. Else empty.
  std::function<void(index_t first, MatrixView<float> weights)> fit_group;
  index_t group_size = 0;
};

/// Nearest rounding with step 1; lanes up to RowTiles::most_lanes.
[[nodiscard]] RoundingTile unit_tile(MatrixView<const float> x, float top, index_t rows);

/// Rounds tiles of rows. Rows are independent; a rounder may not let one see another.
class Rounder {
 public:
  Rounder() = default;
  Rounder(const Rounder&) = delete;
  Rounder& operator=(const Rounder&) = delete;
  virtual ~Rounder() = default;

  /// Every element of `q` [n × lanes] becomes one of 0 … top. `loss` [lanes] receives, row by row,
  /// the damped proxy loss (ŵ−x) H (ŵ−x)ᵀ with ŵ = step·q. Lanes is a multiple of
  /// RowTiles::lane_unit. Serial. Returns the greedy passes that the rows in use needed.
  virtual int round(const PreparedLayer& layer, const RoundingTile& tile, MatrixView<float> q,
                    std::span<double> loss) const = 0;
};

/// The rounder of the options' method (quant/options/methods.hpp).
[[nodiscard]] std::unique_ptr<Rounder> make_rounder(const LayerOptions& options);

/// Adds x H xᵀ = Σₖ Dₖ (x(L+I))ₖ² of every row of a transposed tile `x` [n × lanes] to `norm`
/// [lanes]. Cost n² flops a row.
void add_hessian_norm(const LowerPanels& factor, MatrixView<const float> x, std::span<double> norm);

/// The part of that which the columns of block b bring: `panel` is that of L, of `factor` only the
/// shape and the diagonal are read. `projected` is scratch [LowerPanels::block × lanes].
void add_block_norm(const LowerPanels& factor, index_t b, MatrixView<const float> panel,
                    MatrixView<const float> x, float* projected, std::span<double> norm);

/// Sets `loss` to the damped proxy loss of the levels `q` of a tile.
void measure_loss(const LowerPanels& factor, const RoundingTile& tile, MatrixView<const float> q,
                  std::span<double> loss);

}  // namespace quip
