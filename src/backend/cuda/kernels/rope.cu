// Rotary positions: a thread turns one pair.
#include "backend/cuda/kernel.hpp"
#include "kernels.hpp"

namespace quip::cuda {
namespace {

__global__ void rotate(DeviceView<float> x, index_t heads, index_t half,
                       DeviceView<const float> cosine, DeviceView<const float> sine) {
  for_elements(x.rows, heads * half, [&](index_t t, index_t i) {
    const index_t pair = i % half;
    const index_t head = i / half;
    float& low = x(t, 2 * half * head + pair);
    float& high = x(t, 2 * half * head + half + pair);
    const float c = cosine(t, pair);
    const float s = sine(t, pair);
    const float a = low;
    const float b = high;
    low = a * c - b * s;
    high = b * c + a * s;
  });
}

}  // namespace

void rope(cudaStream_t stream, TensorView x, index_t heads, index_t head_dim,
          ConstTensorView cosine, ConstTensorView sine) {
  const index_t half = head_dim / 2;
  launch_elementwise("rope", rotate, x.rows * heads * half, stream, x, heads, half, cosine, sine);
}

}  // namespace quip::cuda
