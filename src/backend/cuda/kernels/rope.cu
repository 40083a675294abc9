// Rotary positions: a thread turns one pair.
#include "backend/cuda/kernel.hpp"
#include "kernels.hpp"

namespace quip::cuda {
namespace {

__global__ void rotate(DeviceView<float> x, index_t heads, index_t half,
                       DeviceView<const float> cosine, DeviceView<const float> sine) {
  const index_t total = x.rows * heads * half;
  for (index_t i = global_thread(); i < total; i += all_threads()) {
    const index_t pair = i % half;
    const index_t head = i / half % heads;
    const index_t t = i / (half * heads);
    float& low = x(t, 2 * half * head + pair);
    float& high = x(t, 2 * half * head + half + pair);
    const float c = cosine(t, pair);
    const float s = sine(t, pair);
    const float a = low;
    const float b = high;
    low = a * c - b * s;
    high = b * c + a * s;
  }
}

}  // namespace

void rope(cudaStream_t stream, TensorView x, index_t heads, index_t head_dim,
          ConstTensorView cosine, ConstTensorView sine) {
  const index_t half = head_dim / 2;
  const index_t pairs = x.rows * heads * half;
  if (pairs == 0) return;
  launch("rope", rotate, elementwise_blocks(pairs), threads_elementwise, 0, stream, x, heads, half,
         cosine, sine);
}

}  // namespace quip::cuda
