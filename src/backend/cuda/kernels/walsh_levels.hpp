// The levels of a Walsh–Hadamard transform in shared memory, up to three at a time in registers.
// The largest distance comes first.
#pragma once

#include "backend/cuda/kernel.hpp"

namespace quip::cuda {

/// Does log₂(Radix) levels of `tile`, the smallest over elements `distance` apart.
template <int Radix, typename T>
__device__ void run_levels(T* tile, unsigned elements, unsigned distance) {
  for (unsigned set = threadIdx.x; set < elements / Radix; set += blockDim.x) {
    T* const first = tile + set / distance * distance * Radix + set % distance;
    T v[Radix];
    for (int r = 0; r < Radix; ++r) v[r] = first[r * distance];
    for (int half = Radix / 2; half > 0; half /= 2) {
      for (int r = 0; r < Radix; ++r) {
        if ((r & half) != 0) continue;
        const T sum = v[r] + v[r + half];
        v[r + half] = v[r] - v[r + half];
        v[r] = sum;
      }
    }
    for (int r = 0; r < Radix; ++r) first[r * distance] = v[r];
  }
}

/// Does log₂(radix) levels of all runs of `run` elements, the largest over halves of a run. The
/// whole block has to come, and finds its elements written.
template <typename T>
__device__ void run_all_levels(T* tile, unsigned elements, unsigned run, unsigned radix) {
  unsigned distance = run;
  for (unsigned rest = radix; rest > 1;) {
    __syncthreads();
    const unsigned together = rest % 8 == 0 ? 8 : rest;
    rest /= together;
    distance /= together;
    if (together == 8) run_levels<8>(tile, elements, distance);
    if (together == 4) run_levels<4>(tile, elements, distance);
    if (together == 2) run_levels<2>(tile, elements, distance);
  }
  __syncthreads();
}

}  // namespace quip::cuda
