#include "softmax.hpp"

#include <array>
#include <limits>

#include "core/simd.hpp"
#include "vector_math.hpp"

namespace quip::cpu {

QUIP_SIMD float row_maximum(const float* x, index_t n) {
  // Independent lanes, because a maximum of floats is not reordered by itself.
  constexpr index_t lanes = 32;
  std::array<float, lanes> lane;
  lane.fill(-std::numeric_limits<float>::infinity());
  index_t j = 0;
  for (; j + lanes <= n; j += lanes) {
#pragma omp simd
    for (index_t l = 0; l < lanes; ++l) lane[l] = x[j + l] > lane[l] ? x[j + l] : lane[l];
  }
  for (; j < n; ++j) lane[0] = x[j] > lane[0] ? x[j] : lane[0];
  float maximum = lane[0];
  for (const float value : lane) maximum = value > maximum ? value : maximum;
  return maximum;
}

QUIP_SIMD float exponentiate(float* x, float shift, index_t n) {
  float total = 0.0F;
#pragma omp simd reduction(+ : total)
  for (index_t j = 0; j < n; ++j) {
    x[j] = exponential(x[j] - shift);
    total += x[j];
  }
  return total;
}

QUIP_SIMD void cap_softly(float* x, float cap, index_t n) {
  // tanh u = 1 − 2/(e²ᵘ + 1)
  const float twice = 2.0F / cap;
#pragma omp simd
  for (index_t j = 0; j < n; ++j) x[j] = cap - 2.0F * cap / (exponential(twice * x[j]) + 1.0F);
}

}  // namespace quip::cpu
