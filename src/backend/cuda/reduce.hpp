// Sums and maxima over the threads of a block, in a fixed order.
#pragma once

#include "kernel.hpp"

namespace quip::cuda {

inline constexpr unsigned warp_size = 32;
inline constexpr unsigned every_lane = 0xffffffffU;

struct Sum {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
/// The larger of two values; NaNs are ignored.
struct Maximum {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

/// Returns the value combined over the warp's lanes, in every lane.
template <typename T, typename Combine>
__device__ T reduce_warp(T value, Combine combine) {
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    value = combine(value, __shfl_xor_sync(every_lane, value, lanes));
  }
  return value;
}

/// Returns the value combined over all threads of a one-dimensional block of whole warps, in every
/// thread. `scratch`: shared memory for one element a warp.
template <typename T, typename Combine>
__device__ T reduce_block(T value, T neutral, Combine combine, T* scratch) {
  const unsigned warp = threadIdx.x / warp_size;
  const unsigned lane = threadIdx.x % warp_size;
  value = reduce_warp(value, combine);
  __syncthreads();  // an earlier reduction may still be reading
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  value = lane < blockDim.x / warp_size ? scratch[lane] : neutral;
  return reduce_warp(value, combine);
}

}  // namespace quip::cuda
