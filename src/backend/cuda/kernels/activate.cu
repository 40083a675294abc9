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

__global__ void gate_clamped(DeviceView<float> gate, DeviceView<const float> up, float alpha,
                             float limit) {
  for_elements(gate.rows, gate.cols, [&](index_t row, index_t col) {
    const float g = fminf(gate(row, col), limit);
    const float u = fmaxf(fminf(up(row, col), limit), -limit);
    gate(row, col) = g / (1.0F + expf(-alpha * g)) * (u + 1.0F);
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
void clamped_swiglu(cudaStream_t stream, const ClampedSwiglu& shape, TensorView gate,
                    ConstTensorView up) {
  launch_elementwise("clamped_swiglu", gate_clamped, gate.size(), stream, gate, up, shape.alpha,
                     shape.limit);
}

}  // namespace quip::cuda
