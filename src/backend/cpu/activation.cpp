// Activation functions, in place.
#include <cmath>

#include "core/simd.hpp"
#include "operations.hpp"
#include "vector_math.hpp"

namespace quip::cpu {
namespace {

QUIP_SIMD void relu(float* x, index_t n) {
#pragma omp simd
  for (index_t j = 0; j < n; ++j) x[j] = x[j] < 0.0F ? 0.0F : x[j];
}

/// Computes x·σ(x).
QUIP_SIMD void silu(float* x, index_t n) {
#pragma omp simd
  for (index_t j = 0; j < n; ++j) x[j] = x[j] / (1.0F + exponential(-x[j]));
}

/// x/2·(1 + tanh u) = x·σ(2u), u = √(2/π)·(x + 0.044715 x³).
QUIP_SIMD void gelu_tanh(float* x, index_t n) {
  constexpr float twice = 1.5957691216F;  // 2·√(2/π)
#pragma omp simd
  for (index_t j = 0; j < n; ++j) {
    const float u = twice * (x[j] + 0.044715F * x[j] * x[j] * x[j]);
    x[j] = x[j] / (1.0F + exponential(-u));
  }
}

/// Computes x·Φ(x), through erfc: 1 + erf would lose the negative tail.
void gelu(float* x, index_t n) {
  constexpr float inverse_root2 = 0.70710678F;
  for (index_t j = 0; j < n; ++j) x[j] = 0.5F * x[j] * std::erfc(-x[j] * inverse_root2);
}

QUIP_SIMD void multiply(const float* factor, index_t n, float* y) {
#pragma omp simd
  for (index_t j = 0; j < n; ++j) y[j] *= factor[j];
}

/// gate = gate·σ(alpha·gate)·(up + 1), both clamped first.
QUIP_SIMD void clamped_swiglu(const ClampedSwiglu& shape, const float* up, index_t n, float* gate) {
  const float limit = shape.limit;
  const float alpha = shape.alpha;
#pragma omp simd
  for (index_t j = 0; j < n; ++j) {
    const float g = gate[j] > limit ? limit : gate[j];
    const float upper = up[j] > limit ? limit : up[j];
    const float u = upper < -limit ? -limit : upper;
    gate[j] = g / (1.0F + exponential(-alpha * g)) * (u + 1.0F);
  }
}

void activate_row(Activation kind, float* x, index_t n) {
  switch (kind) {
    case Activation::relu:
      return relu(x, n);
    case Activation::gelu:
      return gelu(x, n);
    case Activation::gelu_tanh:
      return gelu_tanh(x, n);
    case Activation::silu:
      return silu(x, n);
  }
}

}  // namespace

void activate(Activation kind, TensorView x) {
  for (index_t t = 0; t < x.rows; ++t) activate_row(kind, x.row(t), x.cols);
}

void gated_activate(Activation kind, TensorView gate, ConstTensorView up) {
  require_shape(up, gate.rows, gate.cols, "gated_activate: up");
  for (index_t t = 0; t < gate.rows; ++t) {
    activate_row(kind, gate.row(t), gate.cols);
    multiply(up.row(t), gate.cols, gate.row(t));
  }
}

void clamped_swiglu(const ClampedSwiglu& shape, TensorView gate, ConstTensorView up) {
  require_shape(up, gate.rows, gate.cols, "clamped_swiglu: up");
  for (index_t t = 0; t < gate.rows; ++t) {
    clamped_swiglu(shape, up.row(t), gate.cols, gate.row(t));
  }
}

}  // namespace quip::cpu
