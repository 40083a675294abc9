// Rows and lanes in another order, and scalings of columns and rows.
#include "backend/cuda/kernel.hpp"
#include "quant_kernels.hpp"

namespace quip::cuda {
namespace {

__global__ void take_rows(DeviceView<const float> x, const index_t* order, DeviceView<float> y) {
  for_elements(y.rows, y.cols, [&](index_t i, index_t j) { y(i, j) = x(order[i], j); });
}

__global__ void take_lanes(DeviceView<const float> x, const std::int32_t* lane,
                           DeviceView<float> y) {
  for_elements(y.rows, y.cols, [&](index_t i, index_t j) { y(i, j) = x(i, lane[j]); });
}

__global__ void multiply_columns(DeviceView<float> x, const float* factor) {
  for_elements(x.rows, x.cols, [&](index_t i, index_t j) { x(i, j) *= factor[j]; });
}

__global__ void multiply_rows(DeviceView<float> x, const float* factor) {
  for_elements(x.rows, x.cols, [&](index_t i, index_t j) { x(i, j) *= factor[i]; });
}

__global__ void divide_all(DeviceView<float> x, const float* divisor) {
  for_elements(x.rows, x.cols, [&](index_t i, index_t j) { x(i, j) /= divisor[i]; });
}

}  // namespace

void gather_rows(cudaStream_t stream, MatrixView<const float> x, const index_t* order,
                 MatrixView<float> y) {
  launch_elementwise("gather_rows", take_rows, y.size(), stream, x, order, y);
}
void gather_lanes(cudaStream_t stream, MatrixView<const float> x, const std::int32_t* lane,
                  MatrixView<float> y) {
  launch_elementwise("gather_lanes", take_lanes, y.size(), stream, x, lane, y);
}
void scale_columns(cudaStream_t stream, MatrixView<float> x, const float* factor) {
  launch_elementwise("scale_columns", multiply_columns, x.size(), stream, x, factor);
}
void scale_rows(cudaStream_t stream, MatrixView<float> x, const float* factor) {
  launch_elementwise("scale_rows", multiply_rows, x.size(), stream, x, factor);
}
void divide_rows(cudaStream_t stream, MatrixView<float> x, const float* divisor) {
  launch_elementwise("divide_rows", divide_all, x.size(), stream, x, divisor);
}

}  // namespace quip::cuda
