// The grid of an element, as kernels look it up.
#pragma once

#include "backend/cuda/kernel.hpp"
#include "quant_kernels.hpp"

namespace quip::cuda {

__device__ inline index_t grid_row(const std::int32_t* group, index_t k) {
  return group == nullptr ? 0 : group[k];
}
__device__ inline float step_of(const GridView& grid, index_t lanes, index_t k, index_t lane) {
  return grid.step == nullptr ? 1.0F : grid.step[grid_row(grid.group, k) * lanes + lane];
}
__device__ inline float inverse_of(const GridView& grid, index_t lanes, index_t k, index_t lane) {
  return grid.inverse == nullptr ? 1.0F : grid.inverse[grid_row(grid.group, k) * lanes + lane];
}

/// Returns clamp(⌊g + offset⌋, low, top) for g = x·inverse.
__device__ inline float to_level(float x, float inverse, float offset, float low, float top) {
  return fminf(fmaxf(floorf(fmaf(x, inverse, offset)), low), top);
}

}  // namespace quip::cuda
