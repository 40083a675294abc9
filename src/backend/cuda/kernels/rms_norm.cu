// y = x / rms(x) · gain: a block of threads for each row.
#include "backend/cuda/reduce.hpp"
#include "kernels.hpp"

namespace quip::cuda {
namespace {

constexpr unsigned threads = 256;

__global__ void __launch_bounds__(threads)
    normalise(DeviceView<const float> x, const float* gain, float plus, float epsilon,
              DeviceView<float> y) {
  const index_t t = blockIdx.x;
  float square = 0.0F;
  for (index_t j = threadIdx.x; j < x.cols; j += threads) square += x(t, j) * x(t, j);
  square = reduce_block(square, 0.0F, Sum{}, shared_memory<float>());
  const float factor = 1.0F / sqrtf(square / static_cast<float>(x.cols) + epsilon);
  for (index_t j = threadIdx.x; j < x.cols; j += threads) {
    const float normed = x(t, j) * factor;
    y(t, j) = gain == nullptr ? normed : normed * (plus + gain[j]);
  }
}

}  // namespace

void rms_norm(cudaStream_t stream, ConstTensorView x, const Gain& gain, float epsilon,
              TensorView y) {
  if (x.size() == 0) return;
  launch("rms_norm", normalise, static_cast<unsigned>(x.rows), threads,
         threads / warp_size * sizeof(float), stream, x, gain.values.data, gain.plus, epsilon, y);
}

}  // namespace quip::cuda
