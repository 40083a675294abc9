// Normalisation, row by row. One pass of a row stays in the first-level cache for the next.
#include <cmath>

#include "core/simd.hpp"
#include "operations.hpp"

namespace quip::cpu {
namespace {

QUIP_SIMD float sum(const float* x, index_t n) {
  float total = 0.0F;
#pragma omp simd reduction(+ : total)
  for (index_t j = 0; j < n; ++j) total += x[j];
  return total;
}

/// Returns Σ (x − centre)².
QUIP_SIMD float sum_of_squares(const float* x, float centre, index_t n) {
  float total = 0.0F;
#pragma omp simd reduction(+ : total)
  for (index_t j = 0; j < n; ++j) total += (x[j] - centre) * (x[j] - centre);
  return total;
}

/// y = (x − centre) · factor; y may be x.
QUIP_SIMD void standardise(const float* x, float centre, float factor, index_t n, float* y) {
#pragma omp simd
  for (index_t j = 0; j < n; ++j) y[j] = (x[j] - centre) * factor;
}

QUIP_SIMD void multiply(const float* gain, float plus, index_t n, float* y) {
#pragma omp simd
  for (index_t j = 0; j < n; ++j) y[j] *= plus + gain[j];
}

}  // namespace

void rms_norm(ConstTensorView x, const Gain& gain, float epsilon, TensorView y) {
  require_shape(y, x.rows, x.cols, "rms_norm: y");
  if (gain.values.size() != 0) require_shape(gain.values, 1, x.cols, "rms_norm: gain");
  const auto width = static_cast<float>(x.cols);
  for (index_t t = 0; t < x.rows; ++t) {
    const float mean_square = sum_of_squares(x.row(t), 0.0F, x.cols) / width;
    standardise(x.row(t), 0.0F, 1.0F / std::sqrt(mean_square + epsilon), x.cols, y.row(t));
    if (gain.values.size() != 0) multiply(gain.values.data, gain.plus, x.cols, y.row(t));
  }
}

void layer_norm(ConstTensorView x, ConstTensorView gain, ConstTensorView bias, float epsilon,
                TensorView y) {
  require_shape(y, x.rows, x.cols, "layer_norm: y");
  if (gain.size() != 0) require_shape(gain, 1, x.cols, "layer_norm: gain");
  const auto width = static_cast<float>(x.cols);
  for (index_t t = 0; t < x.rows; ++t) {
    const float mean = sum(x.row(t), x.cols) / width;
    const float variance = sum_of_squares(x.row(t), mean, x.cols) / width;
    standardise(x.row(t), mean, 1.0F / std::sqrt(variance + epsilon), x.cols, y.row(t));
    if (gain.size() != 0) multiply(gain.data, 0.0F, x.cols, y.row(t));
  }
  if (bias.size() != 0) add_rows(bias, y);
}

}  // namespace quip::cpu
