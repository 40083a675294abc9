// Element access in a transform's kernels.
#pragma once

#include "backend/cuda/kernel.hpp"
#include "transform_kernels.hpp"

namespace quip::cuda {

// Multiplies without ever becoming part of a multiply-add.
__device__ inline float multiplied(float a, float b) { return __fmul_rn(a, b); }
__device__ inline double multiplied(double a, double b) { return __dmul_rn(a, b); }

template <typename T>
__device__ T element_of(const StridedMatrix<const T>& x, index_t i, index_t j) {
  return x.data[i * x.row_stride + j * x.col_stride];
}

__device__ inline float element_of(const CodeMatrix& x, index_t i, index_t j) {
  const index_t first_bit = i * x.bits;
  const std::uint8_t* from = x.packed + j * x.row_bytes + first_bit / 8;
  const auto shift = static_cast<int>(first_bit % 8);
  unsigned codes = *from;
  if (shift + x.bits > 8)
    codes |= static_cast<unsigned>(from[1]) << 8;  // that byte may be the row's last
  const auto level = static_cast<float>(codes >> shift & ((1U << x.bits) - 1U));
  index_t grid = 0;
  if (!x.single) {
    const unsigned column = x.first_column + static_cast<unsigned>(i);
    grid = j * x.groups + (x.group_size == 0 ? 0 : column / x.group_size);
  }
  return multiplied(__fsub_rn(level, x.offset[grid]), x.step[grid]);
}

template <typename T, typename Elements>
__device__ T take(const StepInput<T, Elements>& x, index_t i, index_t j) {
  const T value = element_of(x.elements, x.row == nullptr ? i : x.row[i], j);
  return x.factor == nullptr ? value : multiplied(value, x.factor[i]);
}

template <typename T>
__device__ void put(const StepOutput<T>& y, index_t i, index_t j, T value) {
  if (y.factor != nullptr) value = multiplied(value, y.factor[i]);
  if (y.divisor != nullptr) value /= y.divisor[j];
  const index_t row = y.row == nullptr ? i : y.row[i];
  y.elements.data[row * y.elements.row_stride + j * y.elements.col_stride] = value;
}

/// True if neighbours in memory are neighbours in a column. Codes are: a row of W is a column here.
template <typename T>
__device__ bool runs_down(const StridedMatrix<T>& x) {
  return x.row_stride == 1;
}
__device__ inline bool runs_down(const CodeMatrix& /*x*/) { return true; }

}  // namespace quip::cuda
