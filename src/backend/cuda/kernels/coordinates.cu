// Element-wise conversions between weights, coordinates and levels.
#include "grid_access.hpp"

namespace quip::cuda {
namespace {

/// Rounds twice, as the host's plain loops do; its column kernels fuse.
__device__ float multiply_then_add(float a, float b, float c) {
  return __fadd_rn(__fmul_rn(a, b), c);
}

__global__ void place(DeviceView<const float> w, const float* factor, const float* shift,
                      const std::int32_t* group, DeviceView<float> x) {
  for_elements(x.rows, x.cols, [&](index_t k, index_t r) {
    const index_t at = grid_row(group, k) * x.cols + r;
    x(k, r) = multiply_then_add(w(k, r), factor == nullptr ? 1.0F : factor[at], shift[at]);
  });
}

__global__ void clamp_all(GridView grid, float top, DeviceView<float> x) {
  for_elements(x.rows, x.cols, [&](index_t k, index_t r) {
    const float end = __fmul_rn(top, step_of(grid, x.cols, k, r));
    x(k, r) = fminf(fmaxf(x(k, r), 0.0F), end);
  });
}

__global__ void subtract(DeviceView<const float> q, GridView grid, DeviceView<const float> x,
                         DeviceView<float> difference) {
  for_elements(x.rows, x.cols, [&](index_t k, index_t r) {
    difference(k, r) = multiply_then_add(q(k, r), step_of(grid, x.cols, k, r), -x(k, r));
  });
}

__global__ void nearest(DeviceView<const float> x, GridView grid, const float* offset, float top,
                        DeviceView<float> q) {
  for_elements(x.rows, x.cols, [&](index_t k, index_t r) {
    const float at = offset == nullptr ? 0.5F : offset[k * x.cols + r];
    const float shifted = multiply_then_add(x(k, r), inverse_of(grid, x.cols, k, r), at);
    q(k, r) = fminf(fmaxf(floorf(shifted), 0.0F), top);
  });
}

__global__ void divide(DeviceView<const float> x, GridView grid, DeviceView<float> q) {
  for_elements(x.rows, x.cols, [&](index_t k, index_t r) {
    q(k, r) = __fmul_rn(x(k, r), inverse_of(grid, x.cols, k, r));
  });
}

__global__ void cut(GridView grid, float top, DeviceView<float> q, DeviceView<float> base) {
  for_elements(q.rows, q.cols, [&](index_t k, index_t r) {
    const float level = fminf(fmaxf(q(k, r), 0.0F), top);
    base(k, r) =
        multiply_then_add(__fsub_rn(level, q(k, r)), step_of(grid, q.cols, k, r), base(k, r));
    q(k, r) = level;
  });
}

}  // namespace

void RoundingKernels::to_coordinates(MatrixView<const float> w, const float* factor,
                                     const float* shift, const std::int32_t* group,
                                     MatrixView<float> x) const {
  launch_elementwise("to_coordinates", place, x.size(), stream(), w, factor, shift, group, x);
}
void RoundingKernels::clamp_coordinates(GridView grid, float top, MatrixView<float> x) const {
  launch_elementwise("clamp_coordinates", clamp_all, x.size(), stream(), grid, top, x);
}
void RoundingKernels::level_difference(MatrixView<const float> q, GridView grid,
                                       MatrixView<const float> x,
                                       MatrixView<float> difference) const {
  launch_elementwise("level_difference", subtract, x.size(), stream(), q, grid, x, difference);
}
void RoundingKernels::round_to_nearest(MatrixView<const float> x, GridView grid,
                                       const float* offset, float top, MatrixView<float> q) const {
  launch_elementwise("round_to_nearest", nearest, x.size(), stream(), x, grid, offset, top, q);
}
void RoundingKernels::unrounded_levels(MatrixView<const float> x, GridView grid,
                                       MatrixView<float> q) const {
  launch_elementwise("unrounded_levels", divide, x.size(), stream(), x, grid, q);
}
void RoundingKernels::cut_levels(GridView grid, float top, MatrixView<float> q,
                                 MatrixView<float> base) const {
  launch_elementwise("cut_levels", cut, q.size(), stream(), grid, top, q, base);
}

}  // namespace quip::cuda
