// Operations that look at each element once.
#include <algorithm>
#include <bit>
#include <limits>

#include "core/simd.hpp"
#include "operations.hpp"

namespace quip::cpu {
namespace {

QUIP_SIMD void add_row(const float* x, index_t n, float* y) {
#pragma omp simd
  for (index_t j = 0; j < n; ++j) y[j] += x[j];
}

QUIP_SIMD void multiply_row(float factor, index_t n, float* x) {
#pragma omp simd
  for (index_t j = 0; j < n; ++j) x[j] *= factor;
}

/// (low, high) ← (low·cos − high·sin, high·cos + low·sin).
QUIP_SIMD void rotate(const float* cosine, const float* sine, index_t n, float* low, float* high) {
#pragma omp simd
  for (index_t j = 0; j < n; ++j) {
    const float a = low[j];
    const float b = high[j];
    low[j] = a * cosine[j] - b * sine[j];
    high[j] = b * cosine[j] + a * sine[j];
  }
}

/// The same for pairs of neighbours.
QUIP_SIMD void rotate_neighbours(const float* cosine, const float* sine, index_t n, float* x) {
#pragma omp simd
  for (index_t j = 0; j < n; ++j) {
    const float a = x[2 * j];
    const float b = x[2 * j + 1];
    x[2 * j] = a * cosine[j] - b * sine[j];
    x[2 * j + 1] = b * cosine[j] + a * sine[j];
  }
}

/// Raises maxima by bit patterns: non-negative floats are ordered like them, NaNs above infinity.
QUIP_SIMD void raise_maximum(const float* x, index_t n, float* maximum) {
#pragma omp simd
  for (index_t j = 0; j < n; ++j) {
    const std::int32_t magnitude = std::bit_cast<std::int32_t>(x[j]) & 0x7fffffff;
    const auto known = std::bit_cast<std::int32_t>(maximum[j]);
    maximum[j] = std::bit_cast<float>(magnitude > known ? magnitude : known);
  }
}

}  // namespace

void scale(float factor, TensorView x) {
  for (index_t t = 0; t < x.rows; ++t) multiply_row(factor, x.cols, x.row(t));
}

void scale_rows(std::span<const float> factors, TensorView x) {
  check_factors(factors, x);
  for (index_t t = 0; t < x.rows; ++t) multiply_row(factors[at(t)], x.cols, x.row(t));
}

void add(ConstTensorView x, TensorView y) {
  require_shape(x, y.rows, y.cols, "add: x");
  for (index_t t = 0; t < x.rows; ++t) add_row(x.row(t), x.cols, y.row(t));
}

void copy(ConstTensorView x, TensorView y) {
  require_shape(x, y.rows, y.cols, "copy: x");
  for (index_t t = 0; t < x.rows; ++t) std::copy_n(x.row(t), x.cols, y.row(t));
}

void set_rows(ConstTensorView bias, TensorView y) {
  require_shape(bias, 1, y.cols, "bias");
  for (index_t t = 0; t < y.rows; ++t) std::copy_n(bias.data, y.cols, y.row(t));
}

void add_rows(ConstTensorView bias, TensorView y) {
  require_shape(bias, 1, y.cols, "bias");
  for (index_t t = 0; t < y.rows; ++t) add_row(bias.data, y.cols, y.row(t));
}

void rope(TensorView x, const RopeShape& shape, ConstTensorView cosine, ConstTensorView sine) {
  check_rope(x, shape, cosine, sine);
  const index_t pairs = cosine.cols;
  for (index_t t = 0; t < x.rows; ++t) {
    for (index_t h = 0; h < shape.heads; ++h) {
      float* turning = x.row(t) + h * shape.head_dim + shape.first;
      if (shape.interleaved) {
        rotate_neighbours(cosine.row(t), sine.row(t), pairs, turning);
      } else {
        rotate(cosine.row(t), sine.row(t), pairs, turning, turning + pairs);
      }
    }
  }
}

void channel_maximum(ConstTensorView x, std::span<float> maximum) {
  check_channel_maximum(x, maximum);
  for (index_t t = 0; t < x.rows; ++t) raise_maximum(x.row(t), x.cols, maximum.data());
  constexpr float infinite = std::numeric_limits<float>::infinity();
  for (float& value : maximum) value = value <= infinite ? value : infinite;
}

}  // namespace quip::cpu
