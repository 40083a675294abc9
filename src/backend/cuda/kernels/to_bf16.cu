// fp32 to bfloat16, padded with zeros, for the tensor cores.
#include "backend/cuda/kernel.hpp"
#include "kernels.hpp"

namespace quip::cuda {
namespace {

__global__ void convert(DeviceView<const float> x, DeviceView<__nv_bfloat16> y) {
  for_elements(y.rows, y.ld, [&](index_t row, index_t col) {
    y(row, col) = __float2bfloat16_rn(col < x.cols ? x(row, col) : 0.0F);
  });
}

}  // namespace

void to_bf16(cudaStream_t stream, ConstTensorView x, MatrixView<__nv_bfloat16> y) {
  launch_elementwise("to_bf16", convert, y.rows * y.ld, stream, x, y);
}

}  // namespace quip::cuda
