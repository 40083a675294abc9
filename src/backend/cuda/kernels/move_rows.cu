// Permutations of rows and scalings of columns.
#include "backend/cuda/kernel.hpp"
#include "quant_kernels.hpp"

namespace quip::cuda {
namespace {

__global__ void permute(DeviceView<const float> x, const index_t* order, DeviceView<float> y) {
  const index_t total = x.rows * x.cols;
  for (index_t i = global_thread(); i < total; i += all_threads()) {
    const index_t row = i / x.cols;
    const index_t col = i - row * x.cols;
    y(row, col) = x(order[row], col);
  }
}

__global__ void multiply_columns(DeviceView<float> x, const float* factor) {
  const index_t total = x.rows * x.cols;
  for (index_t i = global_thread(); i < total; i += all_threads()) {
    const index_t row = i / x.cols;
    const index_t col = i - row * x.cols;
    x(row, col) *= factor[col];
  }
}

}  // namespace

void gather_rows(cudaStream_t stream, MatrixView<const float> x, const index_t* order,
                 MatrixView<float> y) {
  if (x.size() == 0) return;
  launch("gather_rows", permute, elementwise_blocks(x.size()), threads_elementwise, 0, stream, x,
         order, y);
}

void scale_columns(cudaStream_t stream, MatrixView<float> x, const float* factor) {
  if (x.size() == 0) return;
  launch("scale_columns", multiply_columns, elementwise_blocks(x.size()), threads_elementwise, 0,
         stream, x, factor);
}

}  // namespace quip::cuda
