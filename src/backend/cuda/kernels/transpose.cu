// Transposes through tiles in shared memory, so that reading and writing both run along rows.
#include "backend/cuda/kernel.hpp"
#include "quant_kernels.hpp"

namespace quip::cuda {
namespace {

constexpr unsigned side = 32;
constexpr unsigned rows_of_threads = 8;

__global__ void transpose_tile(DeviceView<const float> x, DeviceView<float> y) {
  auto* tile = shared_memory<float>();  // [32 × 33]: neighbouring rows in different banks
  const index_t row = static_cast<index_t>(blockIdx.y) * side;
  const index_t col = static_cast<index_t>(blockIdx.x) * side;
  for (unsigned i = threadIdx.y; i < side; i += rows_of_threads) {
    if (row + i < x.rows && col + threadIdx.x < x.cols) {
      tile[i * (side + 1) + threadIdx.x] = x(row + i, col + threadIdx.x);
    }
  }
  __syncthreads();
  for (unsigned i = threadIdx.y; i < side; i += rows_of_threads) {
    if (col + i < x.cols && row + threadIdx.x < x.rows) {
      y(col + i, row + threadIdx.x) = tile[threadIdx.x * (side + 1) + i];
    }
  }
}

}  // namespace

void transpose(cudaStream_t stream, MatrixView<const float> x, MatrixView<float> y) {
  constexpr index_t most_rows = index_t{side} * 65535;
  for (index_t first = 0; first < x.rows; first += most_rows) {
    const index_t count = x.rows - first < most_rows ? x.rows - first : most_rows;
    if (count * x.cols == 0) return;
    const dim3 grid(blocks_for(x.cols, side), blocks_for(count, side));
    launch("transpose", transpose_tile, grid, dim3(side, rows_of_threads),
           side * (side + 1) * sizeof(float), stream, x.middle_rows(first, count),
           y.middle_cols(first, count));
  }
}

}  // namespace quip::cuda
