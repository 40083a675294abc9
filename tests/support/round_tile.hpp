// One tile through the kernels of a rounder, with panels that are in memory.
#pragma once

#include <algorithm>

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
  Matrix<float> error(tile.q.rows(), tile.q.cols());
  for (index_t k = 0; k < error.rows(); ++k) {
    for (index_t r = 0; r < error.cols(); ++r) {
      error(k, r) = tile.q(k, r) * tile.step(k, r) - tile.x(k, r);
    }
  }
  std::fill(tile.loss.begin(), tile.loss.end(), 0.0);
  layer.factor.for_each_panel(false, [&](index_t b, MatrixView<const float> panel) {
    add_block_norm(layer.factor, b, panel, error.cview(), tile.target.data(), tile.loss);
  });
  return passes;
}

}  // namespace quip
