// The common part of kernels that walk the columns of a block in turn, a thread for each lane. The
// errors of the block's columns so far stay in shared memory, beside its part of the factor, whose
// elements all threads read at once.
#pragma once

#include "grid_access.hpp"

namespace quip::cuda {

inline constexpr unsigned walk_threads =
    64;  // lanes of a block: few, so that all processors get some

/// Shared memory: factor [width × width], errors [width × threads].
struct WalkMemory {
  float* factor;
  float* error;
};

inline std::size_t walk_bytes(const ColumnBlock& b) {
  return static_cast<std::size_t>(b.width) * static_cast<std::size_t>(b.width + walk_threads) *
         sizeof(float);
}

/// Loads the factor; every thread of the block has to come here.
__device__ inline WalkMemory load_factor(const ColumnBlock& b) {
  auto* memory = shared_memory<float>();
  for (index_t i = threadIdx.x; i < b.width * b.width; i += blockDim.x) {
    memory[i] = b.panel[i / b.width * b.panel_ld + i % b.width];
  }
  __syncthreads();
  return {memory, memory + b.width * b.width};
}

/// Returns sum + Σ_{first ≤ j < last} factor[j·stride] · error_j, j ascending.
__device__ inline float accumulate(float sum, index_t first, index_t last, const float* factor,
                                   index_t stride, const float* error) {
  for (index_t j = first; j < last; ++j) {
    sum = fmaf(factor[j * stride], error[j * walk_threads + threadIdx.x], sum);
  }
  return sum;
}

/// Returns the level of column k for a value.
__device__ inline float level_of(const ColumnBlock& b, index_t k, index_t lane, float value,
                                 float low) {
  const float offset = b.offset == nullptr ? 0.5F : b.offset[k * b.ld + lane];
  return to_level(value, inverse_of(b.grid, b.ld, k, lane), offset, low, b.top);
}

/// Keeps what a column has become.
__device__ inline void settle(const ColumnBlock& b, const WalkMemory& memory, index_t k,
                              index_t lane, float level, float error) {
  memory.error[k * walk_threads + threadIdx.x] = error;
  b.error[k * b.ld + lane] = error;
  b.q[k * b.ld + lane] = level;
}

/// Runs `kernel` with a thread for each lane.
template <typename... Parameters, typename... Arguments>
void launch_walk(const char* name, void (*kernel)(ColumnBlock, Parameters...), cudaStream_t stream,
                 const ColumnBlock& block, Arguments... arguments) {
  if (block.lanes == 0) return;
  launch(name, kernel, blocks_for(block.lanes, walk_threads), walk_threads, walk_bytes(block),
         stream, block, arguments...);
}

}  // namespace quip::cuda
