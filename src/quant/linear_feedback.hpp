// Adaptive rounding with a given linear feedback: the loop of LDLQ and of its relatives.
#pragma once

#include <span>

#include "quip/quant/rounder.hpp"

namespace quip {

/// From the last column to the first, with the strictly lower triangular `feedback` L:
///   ŵₖ = clamp(Q(xₖ + Σ_{j>k} (xⱼ − ŵⱼ) L_jk), 0, top).
/// `loss` [lanes] receives Σₖ dₖ·(ŵₖ − targetₖ)² with the feedback's diagonal d. Cost n² flops a
/// row: inside a block of columns one after the other, everything beyond it one product.
void round_with_feedback(const LowerPanels& feedback, const RoundingTile& tile, MatrixView<float> q,
                         std::span<double> loss);

}  // namespace quip
