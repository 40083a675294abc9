// y = (x − mean) / std · gain + bias: a block of threads for each row.
#include "backend/cuda/reduce.hpp"
#include "kernels.hpp"

namespace quip::cuda {
namespace {

constexpr unsigned threads = 256;

/// Normalises rows. `gain` and `bias` may be null; y may be x.
__global__ void __launch_bounds__(threads)
    standardise(DeviceView<const float> x, const float* gain, const float* bias, float epsilon,
                DeviceView<float> y) {
  auto* scratch = shared_memory<float>();
  const index_t t = blockIdx.x;
  const auto width = static_cast<float>(x.cols);
  float sum = 0.0F;
  for (index_t j = threadIdx.x; j < x.cols; j += threads) sum += x(t, j);
  const float mean = reduce_block(sum, 0.0F, Sum{}, scratch) / width;
  float square = 0.0F;
  for (index_t j = threadIdx.x; j < x.cols; j += threads) {
    square += (x(t, j) - mean) * (x(t, j) - mean);
  }
  const float variance = reduce_block(square, 0.0F, Sum{}, scratch) / width;
  const float factor = 1.0F / sqrtf(variance + epsilon);
  for (index_t j = threadIdx.x; j < x.cols; j += threads) {
    float value = (x(t, j) - mean) * factor;
    if (gain != nullptr) value *= gain[j];
    if (bias != nullptr) value += bias[j];
    y(t, j) = value;
  }
}

}  // namespace

void layer_norm(cudaStream_t stream, ConstTensorView x, ConstTensorView gain, ConstTensorView bias,
                float epsilon, TensorView y) {
  if (x.size() == 0) return;
  launch("layer_norm", standardise, static_cast<unsigned>(x.rows), threads,
         threads / warp_size * sizeof(float), stream, x, gain.data, bias.data, epsilon, y);
}

}  // namespace quip::cuda
