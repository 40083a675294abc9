// The columns of one block of LDLQ: quant/round/ldlq, a thread for each row of W.
#include "column_walk.hpp"

namespace quip::cuda {
namespace {

__global__ void __launch_bounds__(walk_threads) walk(ColumnBlock b) {
  const WalkMemory memory = load_factor(b);
  const index_t lane = global_thread();
  if (lane >= b.lanes) return;
  double loss = b.loss[lane];
  for (index_t k = b.width - 1; k >= 0; --k) {
    // targetₖ = xₖ + Σ_{j>k} (xⱼ − ŵⱼ) L_jk
    const float target = accumulate(b.target[k * b.ld + lane], k + 1, b.width, memory.factor + k,
                                    b.width, memory.error);
    // ŵₖ = step · clamp(Q(targetₖ / step), 0, top)
    const float level = level_of(b, k, lane, target, 0.0F);
    const float rounded = __fmul_rn(level, step_of(b.grid, b.ld, k, lane));
    const float error = __fsub_rn(b.base[k * b.ld + lane], rounded);
    const double residual = static_cast<double>(rounded) - static_cast<double>(target);
    loss = fma(b.diagonal[k], residual * residual, loss);
    settle(b, memory, k, lane, level, error);
  }
  b.loss[lane] = loss;
}

}  // namespace

void RoundingKernels::round_with_feedback(const ColumnBlock& block) const {
  launch_walk("round_with_feedback", walk, stream(), block);
}

}  // namespace quip::cuda
