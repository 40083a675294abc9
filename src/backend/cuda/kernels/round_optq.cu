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
    const float level =
        to_level(weight, inverse_of(b.grid, b.ld, k, lane), offset_of(b, k, lane), 0.0F, b.top);
    const float error = fmaf(level, step_of(b.grid, b.ld, k, lane), -weight);
    loss = fma(b.diagonal[k], static_cast<double>(error) * static_cast<double>(error), loss);
    memory.error[k * walk_threads + threadIdx.x] = error;
    b.error[k * b.ld + lane] = error;
    b.q[k * b.ld + lane] = level;
  }
  b.loss[lane] = loss;
}

}  // namespace

void round_optq(cudaStream_t stream, const ColumnBlock& block) {
  if (block.lanes == 0) return;
  launch("round_optq", walk, blocks_for(block.lanes, walk_threads), walk_threads, walk_bytes(block),
         stream, block);
}

}  // namespace quip::cuda
