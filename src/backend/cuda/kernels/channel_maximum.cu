// The largest magnitude in each column. Bit patterns of non-negative floats are ordered as the
// floats are, so that a maximum of integers serves, in any order.
#include "backend/cuda/kernel.hpp"
#include "kernels.hpp"

namespace quip::cuda {
namespace {

constexpr unsigned columns = 32;  // columns of a block: neighbouring threads read neighbours
constexpr unsigned rows = 8;
constexpr index_t rows_of_block = 512;

__global__ void raise(DeviceView<const float> x, std::int32_t* maximum) {
  auto* largest = shared_memory<std::int32_t>();
  const index_t col = static_cast<index_t>(blockIdx.x) * columns + threadIdx.x;
  const index_t first = static_cast<index_t>(blockIdx.y) * rows_of_block;
  const index_t last = first + rows_of_block < x.rows ? first + rows_of_block : x.rows;
  std::int32_t mine = 0;
  if (col < x.cols) {
    for (index_t t = first + threadIdx.y; t < last; t += rows) {
      const std::int32_t magnitude = __float_as_int(x(t, col)) & 0x7fffffff;
      mine = magnitude > mine ? magnitude : mine;
    }
  }
  largest[threadIdx.y * columns + threadIdx.x] = mine;
  __syncthreads();
  if (threadIdx.y != 0 || col >= x.cols) return;
  for (unsigned i = 1; i < rows; ++i) {
    const std::int32_t other = largest[i * columns + threadIdx.x];
    mine = other > mine ? other : mine;
  }
  atomicMax(maximum + col, mine);
}

}  // namespace

void channel_maximum(cudaStream_t stream, ConstTensorView x, std::int32_t* maximum) {
  constexpr index_t most_rows = rows_of_block * 65535;  // the limit of a grid
  for (index_t first = 0; first < x.rows; first += most_rows) {
    const index_t count = x.rows - first < most_rows ? x.rows - first : most_rows;
    const dim3 grid(blocks_for(x.cols, columns), blocks_for(count, rows_of_block));
    launch("channel_maximum", raise, grid, dim3(columns, rows),
           columns * rows * sizeof(std::int32_t), stream, x.middle_rows(first, count), maximum);
  }
}

}  // namespace quip::cuda
