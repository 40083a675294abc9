// One tile through the kernels of a rounder, with panels that are in memory.
#pragma once

#include "quip/quant/round/rounder.hpp"

namespace quip {

/// Rounds one tile and takes its damped loss; returns the greedy passes that it needed.
inline int round_tile(const Rounder& rounder, const PreparedLayer& layer, RoundingTile& tile) {
  rounder.start(tile);
  const Sweep sweep = rounder.sweep();
  if (sweep.matrix != nullptr) {
    const LowerPanels& matrix = layer.*sweep.matrix;
    matrix.for_each_panel(sweep.forward, [&](index_t b, MatrixView<const float> panel) {
      rounder.round_block(matrix, b, panel, tile);
    });
  }
  const int passes = rounder.improve(layer, tile);
  if (sweep.knows_loss) return passes;
  const RoundingMath& math = *tile.math;
  const auto error = math.lanes<float>(tile.x.rows, tile.x.cols, "errors");
  math.level_difference(tile.q, tile.grid, tile.x, error);
  tile.loss = math.zeros<double>(1, tile.x.cols, "losses");
  layer.factor.for_each_panel(false, [&](index_t b, MatrixView<const float> panel) {
    add_block_norm(math, layer.factor, b, panel, error, tile.target.data, tile.loss.data);
  });
  return passes;
}

}  // namespace quip
