// The columns of one block of OPTQ (quant/round/optq), a thread for each row of W.
#include "column_walk.hpp"

namespace quip::cuda {
namespace {

__global__ void __launch_bounds__(walk_threads) walk(ColumnBlock b) {
  const WalkMemory memory = load_factor(b);
  const index_t lane = global_thread();
  if (lane >= b.lanes) return;
  double loss = b.loss[lane];
  for (index_t k = 0; k < b.width; ++k) {
    // The weight as updated by the columns before it.
    const float weight =
        accumulate(b.target[k * b.ld + lane], 0, k, memory.factor + k * b.width, 1, memory.error);
    const float level = level_of(b, k, lane, weight, 0.0F);
    const float error = fmaf(level, step_of(b.grid, b.ld, k, lane), -weight);
    loss = fma(b.diagonal[k], static_cast<double>(error) * static_cast<double>(error), loss);
    settle(b, memory, k, lane, level, error);
  }
  b.loss[lane] = loss;
}

}  // namespace

void RoundingKernels::round_optq(const ColumnBlock& block) const {
  launch_walk("round_optq", walk, stream(), block);
}

}  // namespace quip::cuda
