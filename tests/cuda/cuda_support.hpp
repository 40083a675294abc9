// Shared by the tests of the CUDA backend.
#pragma once

#include <bit>
#include <cstdint>
#include <functional>
#include <memory>
#include <type_traits>
#include <vector>

#include "unit/cpu_support.hpp"
#include <gtest/gtest.h>

#include "quip/backend/cuda_backend.hpp"
#include "quip/backend/quantizer.hpp"
#ifdef QUIP_CUDA_ON_HOST
#include <cuda_runtime.h>
#endif

namespace quip {

/// Skips without a GPU. On the host, `body` runs in both orders of the threads of a block: a kernel
/// that lacks a barrier fails in one of them.
class CudaTest : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "no GPU here";
    cuda_ = make_cuda_backend(2, {});
    cpu_ = make_cpu_backend(2);
  }

  static void in_every_order(const std::function<void()>& body) {
#ifdef QUIP_CUDA_ON_HOST
    for (const auto order : {cuda_on_host::Order::descending, cuda_on_host::Order::ascending}) {
      cuda_on_host::set_order(order);
      body();
    }
#else
    body();
#endif
  }

  [[nodiscard]] Tensor on_device(const Matrix<float>& host) const {
    Tensor tensor = cuda_->allocate(host.rows(), host.cols());
    cuda_->upload(host.span(), tensor.view());
    return tensor;
  }
  [[nodiscard]] Matrix<float> on_host(ConstTensorView device) const {
    Matrix<float> host(device.rows, device.cols);
    cuda_->download(device, host.span());
    return host;
  }

  std::unique_ptr<Backend> cuda_;
  std::unique_ptr<Backend> cpu_;
};

/// The nearest bfloat16, ties to even.
inline float rounded_to_bf16(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t up = bits + 0x7fffU + ((bits >> 16) & 1U);
  return std::bit_cast<float>(up & 0xffff0000U);
}

inline Matrix<float> rounded_to_bf16(const Matrix<float>& x) {
  Matrix<float> rounded(x.rows(), x.cols());
  for (index_t i = 0; i < x.size(); ++i) rounded.data()[i] = rounded_to_bf16(x.data()[i]);
  return rounded;
}

/// Zeros of different signs are different.
template <typename T>
void expect_same_bits(const Matrix<T>& actual, const Matrix<T>& expected) {
  ASSERT_EQ(actual.rows(), expected.rows());
  ASSERT_EQ(actual.cols(), expected.cols());
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  for (index_t i = 0; i < actual.rows(); ++i) {
    for (index_t j = 0; j < actual.cols(); ++j) {
      ASSERT_EQ(std::bit_cast<Bits>(actual(i, j)), std::bit_cast<Bits>(expected(i, j)))
          << actual(i, j) << " for " << expected(i, j) << " at " << i << ", " << j << " of ["
          << actual.rows() << " x " << actual.cols() << "]";
    }
  }
}

inline void expect_near(const Matrix<float>& actual, const Matrix<float>& expected,
                        double tolerance) {
  ASSERT_EQ(actual.rows(), expected.rows());
  ASSERT_EQ(actual.cols(), expected.cols());
  double worst = 0;
  for (index_t i = 0; i < actual.size(); ++i) {
    const double difference = std::abs(static_cast<double>(actual.data()[i]) - expected.data()[i]);
    worst = difference <= worst ? worst : difference;  // NaN stays
  }
  EXPECT_LE(worst, tolerance) << "[" << actual.rows() << " x " << actual.cols() << "]";
}

inline void expect_same(const RoundedRows& a, const RoundedRows& b) {
  EXPECT_EQ(a.layer.codes, b.layer.codes);
  EXPECT_EQ(a.layer.scale, b.layer.scale);
  EXPECT_EQ(a.layer.zero, b.layer.zero);
  EXPECT_EQ(a.passes, b.passes);
  ASSERT_EQ(a.losses.size(), b.losses.size());
  for (std::size_t i = 0; i < a.losses.size(); ++i) {
    ASSERT_EQ(a.losses[i].loss, b.losses[i].loss) << "row " << i;
    ASSERT_EQ(a.losses[i].reference, b.losses[i].reference) << "row " << i;
  }
}

inline void expect_same(const std::vector<RowNorms>& a, const std::vector<RowNorms>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(a[i].coded, b[i].coded) << "row " << i;
    ASSERT_EQ(a[i].plain, b[i].plain) << "row " << i;
    ASSERT_EQ(a[i].difference, b[i].difference) << "row " << i;
  }
}

}  // namespace quip
