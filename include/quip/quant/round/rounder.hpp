// Rounders: from grid coordinates to grid points. One file each; see CONTRIBUTING.md.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

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

  Matrix<float> q;           ///< [n × lanes]: the levels
  std::vector<double> loss;  ///< [lanes]: what the rounder knows of the damped proxy loss
  Matrix<float> work;        ///< [n × lanes]: the rounder's, until it has come to its end
  Matrix<float> target;      ///< [LowerPanels::block × lanes]: scratch
};

/// Nearest rounding with step 1; lanes up to RowTiles::most_lanes. Losses are 0.
[[nodiscard]] RoundingTile unit_tile(MatrixView<const float> x, float top, index_t rows);

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
/// not let one see another. Lanes is a multiple of RowTiles::lane_unit. Serial.
class Rounder {
 public:
  Rounder() = default;
  Rounder(const Rounder&) = delete;
  Rounder& operator=(const Rounder&) = delete;
  virtual ~Rounder() = default;

  [[nodiscard]] virtual Sweep sweep() const { return {}; }
  virtual void start(RoundingTile& /*tile*/) const {}
  /// Rounds the columns of block b. Of `matrix` only the shape and the diagonal are read besides
  /// `panel`. Throws nothing.
  virtual void round_block(const LowerPanels& /*matrix*/, index_t /*b*/,
                           MatrixView<const float> /*panel*/, RoundingTile& /*tile*/) const {}
  /// Greedy passes over `layer.hessian`; returns the number that the rows in use needed.
  virtual int improve(const PreparedLayer& /*layer*/, RoundingTile& /*tile*/) const { return 0; }
};

/// Method → rounder: the one place of that choice.
[[nodiscard]] std::unique_ptr<Rounder> make_rounder(const LayerOptions& options);

[[nodiscard]] std::unique_ptr<Rounder> make_nearest();
/// With the feedback in that matrix.
[[nodiscard]] std::unique_ptr<Rounder> make_ldlq(
    LowerPanels PreparedLayer::*feedback = &PreparedLayer::factor);
[[nodiscard]] std::unique_ptr<Rounder> make_optq();
/// `passes` greedy passes. With Clamp::feedback each step stays on the grid. With Clamp::pre, as in
/// the authors' program, levels are cut at the end of a pass while the errors that the next one
/// starts from remember them uncut.
[[nodiscard]] std::unique_ptr<Rounder> make_ldlq_rg(int passes, Clamp clamp);
[[nodiscard]] std::unique_ptr<Rounder> make_greedy(int passes, Clamp clamp);
[[nodiscard]] std::unique_ptr<Rounder> make_ldl_admm(int passes);

/// Adds what the columns of block b bring to x H xᵀ = Σₖ Dₖ (x(L+I))ₖ² of every row of a transposed
/// tile `x` [n × lanes] to `norm` [lanes]. `panel` is that of L, of `factor` only the shape and the
/// diagonal are read. `projected` is scratch [LowerPanels::block × lanes]. Over all blocks it costs
/// n² flops a row.
void add_block_norm(const LowerPanels& factor, index_t b, MatrixView<const float> panel,
                    MatrixView<const float> x, float* projected, std::span<double> norm);

}  // namespace quip
