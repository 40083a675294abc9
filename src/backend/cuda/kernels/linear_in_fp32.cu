// y = x Wᵀ with operands in fp32, for small matrices: a warp for each element of y.
#include "backend/cuda/reduce.hpp"
#include "kernels.hpp"

namespace quip::cuda {
namespace {

constexpr unsigned warps = 8;

__global__ void __launch_bounds__(warps* warp_size)
    dot(DeviceView<const float> x, DeviceView<const float> w, DeviceView<float> y) {
  const index_t element = static_cast<index_t>(blockIdx.x) * warps + threadIdx.x / warp_size;
  if (element >= y.rows * y.cols) return;
  const index_t t = element / y.cols;
  const index_t i = element - t * y.cols;
  float sum = 0.0F;
  for (index_t j = threadIdx.x % warp_size; j < x.cols; j += warp_size) sum += x(t, j) * w(i, j);
  sum = reduce_warp(sum, Sum{});
  if (threadIdx.x % warp_size == 0) y(t, i) = sum;
}

}  // namespace

void linear_in_fp32(cudaStream_t stream, ConstTensorView x, ConstTensorView w, TensorView y) {
  if (y.size() == 0) return;
  launch("linear_in_fp32", dot, blocks_for(y.size(), warps), warps * warp_size, 0, stream, x, w, y);
}

}  // namespace quip::cuda
