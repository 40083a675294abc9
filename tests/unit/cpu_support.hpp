// What the tests of the CPU backend share.
#pragma once

#include <cstring>
#include <limits>
#include <memory>
#include <random>

#include <gtest/gtest.h>

#include "quip/backend/cpu_backend.hpp"

namespace quip {

inline constexpr float infinite = std::numeric_limits<float>::infinity();
inline const ConstTensorView none_left;

inline Matrix<float> random_matrix(index_t rows, index_t cols, unsigned seed,
                                   float magnitude = 1.0F) {
  std::mt19937 generator(seed);
  Matrix<float> matrix(rows, cols);
  for (float& value : matrix.span()) {
    value = magnitude * (static_cast<float>(generator() % 200001) / 100000.0F - 1.0F);
  }
  return matrix;
}

inline Matrix<float> copy_of(const Matrix<float>& matrix) {
  Matrix<float> copy(matrix.rows(), matrix.cols());
  std::memcpy(copy.data(), matrix.data(), static_cast<std::size_t>(matrix.size()) * sizeof(float));
  return copy;
}

class CpuBackendTest : public testing::Test {
 protected:
  std::unique_ptr<Backend> backend_ = make_cpu_backend(2);
};

}  // namespace quip
