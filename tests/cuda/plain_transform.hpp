// Transforms as their steps define them, in plain loops, and what tests of their kernels share.
#pragma once

#include <cmath>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "backend/cuda/copies.hpp"
#include "cuda/cuda_support.hpp"

#include "quip/core/rng.hpp"
#include "quip/quant/transform/transform.hpp"

namespace quip::cuda {

template <typename T>
Matrix<T> random_elements(index_t rows, index_t cols, std::uint64_t seed) {
  Matrix<T> matrix(rows, cols);
  const RandomStream random(seed);
  for (index_t i = 0; i < matrix.size(); ++i) {
    matrix.data()[i] =
        static_cast<T>(random.bits(static_cast<std::uint64_t>(i)) % 2001) / T{997} - T{1};
  }
  return matrix;
}

template <typename T>
std::vector<T> random_factors(index_t count, std::uint64_t seed) {
  const Matrix<T> values = random_elements<T>(1, count, seed);
  std::vector<T> factors(values.data(), values.data() + count);
  for (T& factor : factors) factor = factor == T{0} ? T{1} : factor;
  return factors;
}

/// Rounded by itself, whatever the compiler would like to fuse.
template <typename T>
T product_of(T a, T b) {
  const volatile T product = a * b;
  return product;
}

/// X as memory holds it: row by row, or column by column.
template <typename T>
Matrix<T> laid_out(const Matrix<T>& x, bool down) {
  Matrix<T> y(down ? x.cols() : x.rows(), down ? x.rows() : x.cols());
  for (index_t i = 0; i < x.rows(); ++i) {
    for (index_t j = 0; j < x.cols(); ++j) (down ? y(j, i) : y(i, j)) = x(i, j);
  }
  return y;
}

// ---- what the steps mean, one after the other ----

template <typename T>
Matrix<T> permuted(const Matrix<T>& x, std::span<const index_t> order, bool gather) {
  Matrix<T> y(x.rows(), x.cols());
  for (index_t i = 0; i < x.rows(); ++i) {
    const index_t other = order[at(i)];
    for (index_t j = 0; j < x.cols(); ++j) {
      (gather ? y(i, j) : y(other, j)) = gather ? x(other, j) : x(i, j);
    }
  }
  return y;
}

template <typename T>
Matrix<T> scaled(const Matrix<T>& x, std::span<const double> by) {
  Matrix<T> y(x.rows(), x.cols());
  for (index_t i = 0; i < x.rows(); ++i) {
    for (index_t j = 0; j < x.cols(); ++j) {
      y(i, j) = product_of(x(i, j), static_cast<T>(by[at(i)]));
    }
  }
  return y;
}

/// Levels over rows distance·step apart, from radix/2 down.
template <typename T>
void butterflies(Matrix<T>& x, index_t radix, index_t step) {
  for (index_t distance = radix / 2 * step; distance >= step; distance /= 2) {
    for (index_t i = 0; i < x.rows(); ++i) {
      if (i / distance % 2 != 0) continue;
      for (index_t j = 0; j < x.cols(); ++j) {
        const T a = x(i, j);
        const T b = x(i + distance, j);
        x(i, j) = a + b;
        x(i + distance, j) = a - b;
      }
    }
  }
}

template <typename T>
Matrix<T> multiplied(const Matrix<T>& x, const TransformStep& step, bool transpose) {
  Matrix<T> y(x.rows(), x.cols());
  const index_t order = step.factors[0].rows;
  for (index_t b = 0; b < step.batches; ++b) {
    const auto& a = step.factors[step.factors.size() > 1 ? at(b) : 0];
    for (index_t w = 0; w < step.width; ++w) {
      const index_t first = b * step.batch_stride + w;
      for (index_t i = 0; i < order; ++i) {
        for (index_t j = 0; j < x.cols(); ++j) {
          T sum = 0;
          for (index_t k = 0; k < order; ++k) {
            const auto factor = static_cast<T>(transpose ? a(k, i) : a(i, k));
            sum = std::fma(factor, x(first + k * step.stride, j), sum);
          }
          y(first + i * step.stride, j) = sum;
        }
      }
    }
  }
  return y;
}

template <typename T>
Matrix<T> applied(Matrix<T> x, const TransformStep& step, bool transpose) {
  switch (step.kind) {
    case TransformStep::Kind::gather:
      return permuted(x, step.order, !transpose);
    case TransformStep::Kind::scatter:
      return permuted(x, step.order, transpose);
    case TransformStep::Kind::scale:
      return scaled(x, step.scale);
    case TransformStep::Kind::walsh:
      butterflies(x, step.size, step.stride);
      return x;
    case TransformStep::Kind::multiply:
      return multiplied(x, step, transpose);
  }
  return x;
}

/// A test's values on the device.
template <typename T>
DeviceBuffer<T> uploaded(Context& context, const std::vector<T>& values) {
  return to_device(context, std::span<const T>(values), "of the test");
}
template <typename T>
DeviceBuffer<T> uploaded(Context& context, const Matrix<T>& values) {
  return to_device(context, std::span<const T>(values.span()), "of the test");
}

/// With a context of its own, to run kernels in.
class CudaSteps : public CudaTest {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (!IsSkipped()) context_ = std::make_unique<Context>(0, 1, 1);
  }
  [[nodiscard]] cudaStream_t stream() const { return context_->lane().get(); }
  template <typename T>
  [[nodiscard]] Matrix<T> from_device(const DeviceBuffer<T>& buffer, index_t rows, index_t cols) {
    Matrix<T> host(rows, cols);
    download<T>(context_->lane(), buffer.data(), host.span());
    return host;
  }

  std::unique_ptr<Context> context_;
};

}  // namespace quip::cuda
