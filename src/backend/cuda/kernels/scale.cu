// What is done to each element by itself.
#include "backend/cuda/kernel.hpp"
#include "kernels.hpp"

namespace quip::cuda {
namespace {

__global__ void multiply(DeviceView<float> x, float factor) {
  for_elements(x.rows, x.cols, [&](index_t i, index_t j) { x(i, j) *= factor; });
}

__global__ void bend(DeviceView<float> x, float cap) {
  for_elements(x.rows, x.cols, [&](index_t i, index_t j) { x(i, j) = cap * tanhf(x(i, j) / cap); });
}

}  // namespace

void scale(cudaStream_t stream, float factor, TensorView x) {
  launch_elementwise("scale", multiply, x.size(), stream, x, factor);
}
void cap_softly(cudaStream_t stream, float cap, TensorView x) {
  launch_elementwise("cap_softly", bend, x.size(), stream, x, cap);
}

}  // namespace quip::cuda
