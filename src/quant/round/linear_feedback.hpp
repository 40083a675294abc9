// Adaptive rounding with a given linear feedback: the loop of LDLQ and of its relatives.
#pragma once

#include <span>

#include "quip/quant/round/rounder.hpp"

namespace quip {

/// From the last column to the first, with the strictly lower triangular `feedback` L:
///   ŵₖ = clamp(Q(xₖ + Σ_{j>k} (xⱼ − ŵⱼ) L_jk), 0, top).
/// `loss` [lanes] receives Σₖ dₖ·(ŵₖ − targetₖ)² with the feedback's diagonal d. Cost n² flops a
/// row: inside a block of columns one after the other, everything beyond it one product.
void round_with_feedback(const LowerPanels& feedback, const RoundingTile& tile, MatrixView<float> q,
                         std::span<double> loss);

/// The part of that which rounds block b, after the blocks beyond it: `panel` is that of L, of
/// `feedback` only the shape and the diagonal are read. `error` [n × lanes] receives x − ŵ of the
/// block's columns and holds that of all beyond; `target` is scratch [LowerPanels::block × lanes].
/// Adds to `loss`.
void round_block_with_feedback(const LowerPanels& feedback, index_t b,
                               MatrixView<const float> panel, const RoundingTile& tile,
                               MatrixView<float> q, MatrixView<float> error, float* target,
                               std::span<double> loss);

}  // namespace quip
