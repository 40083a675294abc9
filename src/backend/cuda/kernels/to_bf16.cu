// fp32 to bfloat16, padded with zeros, for the tensor cores.
#include "backend/cuda/kernel.hpp"
#include "kernels.hpp"

namespace quip::cuda {
namespace {

__global__ void convert(DeviceView<const float> x, DeviceView<__nv_bfloat16> y) {
  const index_t total = y.rows * y.ld;
  for (index_t i = global_thread(); i < total; i += all_threads()) {
    const index_t row = i / y.ld;
    const index_t col = i - row * y.ld;
    y.data[i] = __float2bfloat16_rn(col < x.cols ? x(row, col) : 0.0F);
  }
}

}  // namespace

void to_bf16(cudaStream_t stream, ConstTensorView x, MatrixView<__nv_bfloat16> y) {
  if (x.size() == 0) return;
  launch("to_bf16", convert, elementwise_blocks(y.rows * y.ld), threads_elementwise, 0, stream, x,
         y);
}

}  // namespace quip::cuda
