// The columns of one block of a greedy pass: quant/round/greedy, a thread for each row of W.
#include "column_walk.hpp"

namespace quip::cuda {
namespace {

__global__ void __launch_bounds__(walk_threads) walk(ColumnBlock b, float low) {
  const WalkMemory memory = load_factor(b);
  const index_t lane = global_thread();
  if (lane >= b.lanes) return;
  for (index_t k = 0; k < b.width; ++k) {
    memory.error[k * walk_threads + threadIdx.x] = b.error[k * b.ld + lane];
  }
  double changes = b.loss[lane];
  for (index_t k = b.width - 1; k >= 0; --k) {
    float sum =
        accumulate(b.target[k * b.ld + lane], 0, k, memory.factor + k * b.width, 1, memory.error);
    sum = accumulate(sum, k + 1, b.width, memory.factor + k, b.width, memory.error);
    // ŵₖ = Q(xₖ − Σ_{j≠k} sⱼ H_jk / H_kk)
    const auto weight = static_cast<float>(1.0 / b.diagonal[k]);
    const float base = b.base[k * b.ld + lane];
    const float target = fmaf(-sum, weight, base);
    const float level = level_of(b, k, lane, target, low);
    const float s = fmaf(level, step_of(b.grid, b.ld, k, lane), -base);
    changes += s != memory.error[k * walk_threads + threadIdx.x] ? 1.0 : 0.0;
    settle(b, memory, k, lane, level, s);
  }
  b.loss[lane] = changes;
}

}  // namespace

void RoundingKernels::descend(const ColumnBlock& block, float low) const {
  launch_walk("descend", walk, stream(), block, low);
}

}  // namespace quip::cuda
