// The feedback of LDL-ADMM: LDLQ's optimum under a bound on its columns (QuIP, supplement).
#pragma once

#include <span>

#include "quip/core/matrix.hpp"
#include "quip/quant/factor/lower_panels.hpp"

namespace quip {

constexpr int constrained_feedback_iterations = 100;  ///< the authors' number

/// Minimises tr((I+Z) H (I+Z)ᵀ) over strictly lower triangular Z whose columns have norm ≤ 1, by
/// ADMM, and returns the feedback L = (I+Z)⁻¹ − I with a zero diagonal (no loss can be computed
/// from it). The strict upper triangle of `h` [n × n] and `diagonal` are H, positive definite. Each
/// iteration takes 2/3·n³ flops and 3·n² doubles: for moderate n.
[[nodiscard]] LowerPanels constrained_feedback(MatrixView<const double> h,
                                               std::span<const double> diagonal);

}  // namespace quip
