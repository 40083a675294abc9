// Activation functions, plain and gated; the definitions are those of backend/cpu/activation.cpp.
#include "backend/cuda/kernel.hpp"
#include "kernels.hpp"

namespace quip::cuda {
namespace {

template <Activation Kind>
__device__ float function(float x) {
  if constexpr (Kind == Activation::relu) return x < 0.0F ? 0.0F : x;
  if constexpr (Kind == Activation::silu) return x / (1.0F + expf(-x));
  if constexpr (Kind == Activation::gelu_tanh) {  // x/2·(1 + tanh u) = x·σ(2u)
    const float twice_u = 1.5957691216F * (x + 0.044715F * x * x * x);
    return x / (1.0F + expf(-twice_u));
  }
  if constexpr (Kind == Activation::gelu) return 0.5F * x * erfcf(-x * 0.70710678F);
}

/// x = f(x), times `up` where it is not null.
template <Activation Kind>
__global__ void apply(DeviceView<float> x, DeviceView<const float> up) {
  const index_t total = x.rows * x.cols;
  for (index_t i = global_thread(); i < total; i += all_threads()) {
    const index_t row = i / x.cols;
    const index_t col = i - row * x.cols;
    const float value = function<Kind>(x(row, col));
    x(row, col) = up.data == nullptr ? value : value * up(row, col);
  }
}

template <Activation Kind>
void run(cudaStream_t stream, TensorView x, ConstTensorView up) {
  launch("activate", apply<Kind>, elementwise_blocks(x.size()), threads_elementwise, 0, stream, x,
         up);
}

void choose(cudaStream_t stream, Activation kind, TensorView x, ConstTensorView up) {
  if (x.size() == 0) return;
  switch (kind) {
    case Activation::relu:
      return run<Activation::relu>(stream, x, up);
    case Activation::gelu:
      return run<Activation::gelu>(stream, x, up);
    case Activation::gelu_tanh:
      return run<Activation::gelu_tanh>(stream, x, up);
    case Activation::silu:
      return run<Activation::silu>(stream, x, up);
  }
}

}  // namespace

void activate(cudaStream_t stream, Activation kind, TensorView x) { choose(stream, kind, x, {}); }
void gated_activate(cudaStream_t stream, Activation kind, TensorView gate, ConstTensorView up) {
  choose(stream, kind, gate, up);
}

}  // namespace quip::cuda
