// Rotary positions: a thread turns one pair.
#include "backend/cuda/kernel.hpp"
#include "kernels.hpp"

namespace quip::cuda {
namespace {

__global__ void rotate(DeviceView<float> x, index_t heads, index_t head_dim, index_t pairs,
                       DeviceView<const float> cosine, DeviceView<const float> sine) {
  for_elements(x.rows, heads * pairs, [&](index_t t, index_t i) {
    const index_t pair = i % pairs;
    const index_t head = i / pairs;
    float& low = x(t, head_dim * head + pair);
    float& high = x(t, head_dim * head + pairs + pair);
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
  const index_t pairs = cosine.cols;
  launch_elementwise("rope", rotate, x.rows * heads * pairs, stream, x, heads, head_dim, pairs,
                     cosine, sine);
}

}  // namespace quip::cuda
