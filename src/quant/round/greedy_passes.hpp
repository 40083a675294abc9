// Coordinate descent on the proxy loss: the passes of Greedy and of LDLQ-RG.
#pragma once

#include "quip/quant/round/rounder.hpp"

namespace quip {

/// Up to `passes` sweeps over the columns, from the last to the first; each takes the level that
/// minimises the loss with all other columns as they are:
///   ŵₖ = Q(xₖ − Σ_{j≠k} sⱼ H_jk / H_kk),   s = ŵ − x.
/// On entry `q` holds levels, or x/step itself for a start from the unrounded weights. With
/// Clamp::feedback each step stays on the grid. With Clamp::pre, as in the authors' program, levels
/// are cut at the end of a sweep while s remembers them uncut: the next sweep starts from there.
/// Sweeps end when one leaves all rows in use as they were; returns the number made. Cost 2n²
/// flops a row and sweep: the products with H are made anew, so nothing drifts.
int greedy_passes(const LowerPanels& hessian, const RoundingTile& tile, int passes, Clamp clamp,
                  MatrixView<float> q);

/// What a method does that ends in greedy passes: `start` fills `q` as they want it on entry.
class GreedyRounder : public Rounder {
 public:
  GreedyRounder(int passes, Clamp clamp) : passes_(passes), clamp_(clamp) {}
  int round(const PreparedLayer& layer, const RoundingTile& tile, MatrixView<float> q,
            std::span<double> loss) const final;

 private:
  /// `loss` is scratch.
  virtual void start(const PreparedLayer& layer, const RoundingTile& tile, MatrixView<float> q,
                     std::span<double> loss) const = 0;

  int passes_;
  Clamp clamp_;
};

}  // namespace quip
