// Rounders: from grid coordinates to grid points. One file each; see CONTRIBUTING.md.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "quip/core/matrix.hpp"
#include "quip/quant/factor/factor.hpp"
#include "quip/quant/options/options.hpp"
#include "quip/quant/round/rounding_math.hpp"

namespace quip {

/// A transposed tile of rows to round, in the memory of `math`: [n × lanes], row k is the column of
/// W at position k of the layer's order. A level q stands for q·step, so that x = step·(grid
/// coordinate).
struct RoundingTile {
  const RoundingMath* math = nullptr;
  MatrixView<const float> x;  ///< any real numbers
  const float* offset = nullptr;  ///< [n × lanes]: Q(g) = ⌊g + offset⌋, U[0, 1) at random; null: ½
  GridView grid;
  float top = 0;     ///< the highest level
  index_t rows = 0;  ///< lanes in use; the others are padding
  /// Dynamic groups: positions [first, first + group_size) make one, and `x` holds plain weights.
  /// A rounder calls it when it comes to `first`, with what the group's weights [positions × lanes]
  /// have become; it settles their steps and moves them to coordinates. Else empty.
  std::function<void(index_t first, MatrixView<float> weights)> fit_group;
  index_t group_size = 0;

  Lanes<float> q;               ///< [n × lanes]: the levels, or the values of the states
  Lanes<std::uint16_t> states;  ///< trellis: [n/16 · lanes/16 × 256], tile after tile of 16 columns
  Lanes<double> loss;           ///< [1 × lanes]: what the rounder knows of the damped proxy loss
  Lanes<float> work;            ///< [n × lanes]: the rounder's, until it has come to its end
  Lanes<float> target;          ///< [LowerPanels::block × lanes]: scratch
};

/// Returns a tile for nearest rounding with step 1 and losses of 0.
[[nodiscard]] RoundingTile unit_tile(MatrixView<const float> x, float top, index_t rows,
                                     const RoundingMath& math = host_rounding_math());

/// One pass of a rounder over the panels of a matrix.
struct Sweep {
  LowerPanels PreparedLayer::*matrix = nullptr;  ///< null: the rounder needs none
  bool forward = false;                          ///< from the first block to the last
  /// True if RoundingTile::loss is the damped proxy loss (ŵ−x) H (ŵ−x)ᵀ, with ŵ = step·q, at the
  /// end of the sweep, after which no level changes. Else the loss is measured.
  bool knows_loss = false;
};

/// Rounds tiles of rows: `start`, then `round_block` for every panel of its sweep, then `improve`.
/// In the end every element of a tile's q is one of 0 … top. Rows are independent; a rounder may
/// not let one see another. On the host lanes are a multiple of RowTiles::lane_unit. Serial.
class Rounder {
 public:
  Rounder() = default;
  Rounder(const Rounder&) = delete;
  Rounder& operator=(const Rounder&) = delete;
  virtual ~Rounder() = default;

  /// True if it leaves the elements of tiles and matrices to the tile's `math`, so that they may be
  /// on a GPU. All other rounders are given tiles in host memory.
  [[nodiscard]] virtual bool portable() const { return false; }
  [[nodiscard]] virtual Sweep sweep() const { return {}; }
  virtual void start(RoundingTile& /*tile*/) const {}
  /// Rounds the columns of block b. Of `matrix` only the shape and the diagonal are read besides
  /// `panel`. Throws nothing.
  virtual void round_block(const LowerPanels& /*matrix*/, index_t /*b*/,
                           MatrixView<const float> /*panel*/, RoundingTile& /*tile*/) const {}
  /// Makes greedy passes over `layer.hessian`; returns the number that the rows in use needed.
  virtual int improve(const PreparedLayer& /*layer*/, RoundingTile& /*tile*/) const { return 0; }
};

/// Codes tiles of 16 columns × 16 rows as paths through a trellis, with the feedback of LDLQ from
/// one column of tiles to the next, or without.
[[nodiscard]] std::unique_ptr<Rounder> make_trellis_rounder(const LayerOptions& options);

/// Makes the rounder of the options' method (quant/options/methods.hpp).
[[nodiscard]] std::unique_ptr<Rounder> make_rounder(const LayerOptions& options);

/// Returns `first`, followed by up to `passes` greedy passes. With Clamp::feedback each step stays
/// on the grid. With Clamp::pre, as in the authors' program, levels are cut at the end of a pass
/// while the errors that the next one starts from remember them uncut.
[[nodiscard]] std::unique_ptr<Rounder> with_greedy_passes(std::unique_ptr<Rounder> first,
                                                          int passes, Clamp clamp);

/// Adds what the columns of block b bring to x H xᵀ = Σₖ Dₖ (x(L+I))ₖ² of every row of a transposed
/// tile `x` [n × lanes] to `norm` [lanes]. `panel` is that of L, of `factor` only the shape and the
/// diagonal are read. `projected` is scratch [LowerPanels::block × lanes]. Over all blocks it costs
/// n² flops a row.
void add_block_norm(const RoundingMath& math, const LowerPanels& factor, index_t b,
                    MatrixView<const float> panel, MatrixView<const float> x, float* projected,
                    double* norm);

}  // namespace quip
