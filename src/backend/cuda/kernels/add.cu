// Sums of matrices, and of rows with one row.
#include "backend/cuda/kernel.hpp"
#include "kernels.hpp"

namespace quip::cuda {
namespace {

/// Sets y = x, or y += x; x has y's shape, or one row for all.
template <bool Add>
__global__ void combine(DeviceView<const float> x, index_t x_ld, DeviceView<float> y) {
  for_elements(y.rows, y.cols, [&](index_t row, index_t col) {
    const float value = x.data[row * x_ld + col];
    y(row, col) = Add ? y(row, col) + value : value;
  });
}

template <bool Add>
void run(cudaStream_t stream, ConstTensorView x, index_t x_ld, TensorView y) {
  launch_elementwise("add", combine<Add>, y.size(), stream, x, x_ld, y);
}

}  // namespace

void add(cudaStream_t stream, ConstTensorView x, TensorView y) { run<true>(stream, x, x.ld, y); }
void set_rows(cudaStream_t stream, ConstTensorView bias, TensorView y) {
  run<false>(stream, bias, 0, y);
}
void add_rows(cudaStream_t stream, ConstTensorView bias, TensorView y) {
  run<true>(stream, bias, 0, y);
}

}  // namespace quip::cuda
