// Rotary positions: a thread turns one pair.
#include "backend/cuda/kernel.hpp"
#include "kernels.hpp"

namespace quip::cuda {
namespace {

__global__ void rotate(DeviceView<float> x, RopeShape shape, index_t pairs,
                       DeviceView<const float> cosine, DeviceView<const float> sine) {
  for_elements(x.rows, shape.heads * pairs, [&](index_t t, index_t i) {
    const index_t pair = i % pairs;
    const index_t turning = i / pairs * shape.head_dim + shape.first;
    float& low = x(t, turning + (shape.interleaved ? 2 * pair : pair));
    float& high = x(t, turning + (shape.interleaved ? 2 * pair + 1 : pairs + pair));
    const float c = cosine(t, pair);
    const float s = sine(t, pair);
    const float a = low;
    const float b = high;
    low = a * c - b * s;
    high = b * c + a * s;
  });
}

}  // namespace

void rope(cudaStream_t stream, TensorView x, const RopeShape& shape, ConstTensorView cosine,
          ConstTensorView sine) {
  const index_t pairs = cosine.cols;
  launch_elementwise("rope", rotate, x.rows * shape.heads * pairs, stream, x, shape, pairs, cosine,
                     sine);
}

}  // namespace quip::cuda
