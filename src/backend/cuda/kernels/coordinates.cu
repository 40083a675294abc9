// Element-wise conversions between weights, coordinates and levels.
#include "grid_access.hpp"

namespace quip::cuda {
namespace {

/// Rounds twice, as the host's plain loops do; its column kernels fuse.
__device__ float multiply_then_add(float a, float b, float c) {
  return __fadd_rn(__fmul_rn(a, b), c);
}

/// Calls op(k, lane) for all elements of a [positions × lanes] matrix.
template <typename Operation>
__device__ void for_elements(index_t positions, index_t lanes, const Operation& op) {
  const index_t total = positions * lanes;
  for (index_t i = global_thread(); i < total; i += all_threads()) {
    const index_t k = i / lanes;
    op(k, i - k * lanes);
  }
}

__global__ void place(DeviceView<const float> w, const float* factor, const float* shift,
                      const std::int32_t* group, DeviceView<float> x) {
  for_elements(x.rows, x.cols, [&](index_t k, index_t r) {
    const index_t at = grid_row(group, k) * x.cols + r;
    x(k, r) = multiply_then_add(w(k, r), factor[at], shift[at]);
  });
}

__global__ void spread(DeviceView<const float> w, const std::int32_t* lane, const float* factor,
                       const float* shift, DeviceView<float> x) {
  for_elements(x.rows, x.cols, [&](index_t k, index_t r) {
    x(k, r) = multiply_then_add(w(k, lane[r]), factor[r], shift[r]);
  });
}

__global__ void clamp_all(GridView grid, float top, DeviceView<float> x) {
  for_elements(x.rows, x.cols, [&](index_t k, index_t r) {
    const float end = __fmul_rn(top, step_of(grid, x.cols, k, r));
    x(k, r) = fminf(fmaxf(x(k, r), 0.0F), end);
  });
}

__global__ void shift_all(const float* step, const float* offset, DeviceView<float> x) {
  for_elements(x.rows, x.cols, [&](index_t k, index_t r) {
    x(k, r) = multiply_then_add(step[r], offset[r], x(k, r));
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

template <typename... Parameters, typename... Arguments>
void run(const char* name, cudaStream_t stream, index_t size, void (*kernel)(Parameters...),
         Arguments&&... arguments) {
  if (size == 0) return;
  launch(name, kernel, elementwise_blocks(size), threads_elementwise, 0, stream, arguments...);
}

}  // namespace

void to_coordinates(cudaStream_t stream, MatrixView<const float> w, const float* factor,
                    const float* shift, const std::int32_t* group, MatrixView<float> x) {
  run("to_coordinates", stream, x.size(), place, w, factor, shift, group, x);
}
void spread_lanes(cudaStream_t stream, MatrixView<const float> w, const std::int32_t* lane,
                  const float* factor, const float* shift, MatrixView<float> x) {
  run("spread_lanes", stream, x.size(), spread, w, lane, factor, shift, x);
}
void clamp_coordinates(cudaStream_t stream, GridView grid, float top, MatrixView<float> x) {
  run("clamp_coordinates", stream, x.size(), clamp_all, grid, top, x);
}
void shift_lanes(cudaStream_t stream, const float* step, const float* offset, MatrixView<float> x) {
  run("shift_lanes", stream, x.size(), shift_all, step, offset, x);
}
void level_difference(cudaStream_t stream, MatrixView<const float> q, GridView grid,
                      MatrixView<const float> x, MatrixView<float> difference) {
  run("level_difference", stream, x.size(), subtract, q, grid, x, difference);
}
void round_to_nearest(cudaStream_t stream, MatrixView<const float> x, GridView grid,
                      const float* offset, float top, MatrixView<float> q) {
  run("round_to_nearest", stream, x.size(), nearest, x, grid, offset, top, q);
}
void unrounded_levels(cudaStream_t stream, MatrixView<const float> x, GridView grid,
                      MatrixView<float> q) {
  run("unrounded_levels", stream, x.size(), divide, x, grid, q);
}
void cut_levels(cudaStream_t stream, GridView grid, float top, MatrixView<float> q,
                MatrixView<float> base) {
  run("cut_levels", stream, q.size(), cut, grid, top, q, base);
}

}  // namespace quip::cuda
