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
  for_elements(x.rows, x.cols, [&](index_t row, index_t col) {
    const float value = function<Kind>(x(row, col));
    x(row, col) = up.data == nullptr ? value : value * up(row, col);
  });
}

void choose(cudaStream_t stream, Activation kind, TensorView x, ConstTensorView up) {
  const auto run = [&](auto kernel) {
    launch_elementwise("activate", kernel, x.size(), stream, x, up);
  };
  switch (kind) {
    case Activation::relu:
      return run(apply<Activation::relu>);
    case Activation::gelu:
      return run(apply<Activation::gelu>);
    case Activation::gelu_tanh:
      return run(apply<Activation::gelu_tanh>);
    case Activation::silu:
      return run(apply<Activation::silu>);
  }
}

}  // namespace

void activate(cudaStream_t stream, Activation kind, TensorView x) { choose(stream, kind, x, {}); }
void gated_activate(cudaStream_t stream, Activation kind, TensorView gate, ConstTensorView up) {
  choose(stream, kind, gate, up);
}

}  // namespace quip::cuda
