// Permutations and scalings of rows and columns: the steps of a transform that only move data.
#include "../kernel.hpp"
#include "quant_kernels.hpp"

namespace quip::cuda {
namespace {

template <typename T, bool Gather>
__global__ void permute(DeviceView<const T> x, const index_t* order, DeviceView<T> y) {
  const index_t total = x.rows * x.cols;
  for (index_t i = global_thread(); i < total; i += all_threads()) {
    const index_t row = i / x.cols;
    const index_t col = i - row * x.cols;
    if constexpr (Gather) {
      y(row, col) = x(order[row], col);
    } else {
      y(order[row], col) = x(row, col);
    }
  }
}

template <typename T>
__global__ void multiply_rows(DeviceView<T> x, const T* factor) {
  const index_t total = x.rows * x.cols;
  for (index_t i = global_thread(); i < total; i += all_threads()) {
    const index_t row = i / x.cols;
    x(row, i - row * x.cols) *= factor[row];
  }
}

template <bool Divide>
__global__ void change_columns(DeviceView<float> x, const float* by) {
  const index_t total = x.rows * x.cols;
  for (index_t i = global_thread(); i < total; i += all_threads()) {
    const index_t row = i / x.cols;
    const index_t col = i - row * x.cols;
    const float value = x(row, col);
    x(row, col) = Divide ? value / by[col] : value * by[col];
  }
}

template <bool Divide>
void run_columns(cudaStream_t stream, MatrixView<float> x, const float* by) {
  if (x.size() == 0) return;
  launch("change_columns", change_columns<Divide>, elementwise_blocks(x.size()),
         threads_elementwise, 0, stream, x, by);
}

}  // namespace

template <typename T>
void gather_rows(cudaStream_t stream, MatrixView<const T> x, const index_t* order,
                 MatrixView<T> y) {
  if (x.size() == 0) return;
  launch("gather_rows", permute<T, true>, elementwise_blocks(x.size()), threads_elementwise, 0,
         stream, x, order, y);
}
template <typename T>
void scatter_rows(cudaStream_t stream, MatrixView<const T> x, const index_t* order,
                  MatrixView<T> y) {
  if (x.size() == 0) return;
  launch("scatter_rows", permute<T, false>, elementwise_blocks(x.size()), threads_elementwise, 0,
         stream, x, order, y);
}
template <typename T>
void scale_rows(cudaStream_t stream, MatrixView<T> x, const T* factor) {
  if (x.size() == 0) return;
  launch("scale_rows", multiply_rows<T>, elementwise_blocks(x.size()), threads_elementwise, 0,
         stream, x, factor);
}
template void gather_rows(cudaStream_t, MatrixView<const float>, const index_t*, MatrixView<float>);
template void gather_rows(cudaStream_t, MatrixView<const double>, const index_t*,
                          MatrixView<double>);
template void scatter_rows(cudaStream_t, MatrixView<const float>, const index_t*,
                           MatrixView<float>);
template void scatter_rows(cudaStream_t, MatrixView<const double>, const index_t*,
                           MatrixView<double>);
template void scale_rows(cudaStream_t, MatrixView<float>, const float*);
template void scale_rows(cudaStream_t, MatrixView<double>, const double*);

void scale_columns(cudaStream_t stream, MatrixView<float> x, const float* factor) {
  run_columns<false>(stream, x, factor);
}
void divide_columns(cudaStream_t stream, MatrixView<float> x, const float* divisor) {
  run_columns<true>(stream, x, divisor);
}

}  // namespace quip::cuda
