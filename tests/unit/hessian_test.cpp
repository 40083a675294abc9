// The exact Hessian sum: every kernel against 64-bit integer loops, whatever the threads.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "quip/backend/cpu_backend.hpp"
#include "quip/core/error.hpp"

namespace quip::hessian_test {
namespace {

constexpr double untouched = -12345.0;

std::vector<HessianKernel> supported_kernels() {
  std::vector<HessianKernel> kernels;
  for (const HessianKernel kernel :
       {HessianKernel::float64, HessianKernel::vnni_int8, HessianKernel::amx_int8}) {
    if (is_supported(kernel)) kernels.push_back(kernel);
  }
  return kernels;
}

/// Integers as floats; `scale` 1 makes them z itself.
Matrix<float> random_integers(index_t tokens, index_t channels, int limit, unsigned seed) {
  std::mt19937 generator(seed);
  Matrix<float> x(tokens, channels);
  const auto span = static_cast<unsigned>(2 * limit + 1);
  for (float& value : x.span()) {
    value = static_cast<float>(static_cast<int>(generator() % span) - limit);
  }
  return x;
}

/// Σ_t z[t, i] z[t, j] in 64-bit integers, z = nearbyint(x · scale) in double precision.
std::int64_t exact(const Matrix<float>& x, const std::vector<float>& scale, index_t i, index_t j) {
  std::int64_t sum = 0;
  for (index_t t = 0; t < x.rows(); ++t) {
    const double a = std::nearbyint(static_cast<double>(x(t, i)) * scale[i]);
    const double b = std::nearbyint(static_cast<double>(x(t, j)) * scale[j]);
    sum += static_cast<std::int64_t>(a) * static_cast<std::int64_t>(b);
  }
  return sum;
}

void expect_exact(const Matrix<float>& x, const std::vector<float>& scale) {
  const index_t n = x.cols();
  for (const HessianKernel kernel : supported_kernels()) {
    for (const int threads : {1, 2, 3}) {
      SCOPED_TRACE(std::string(to_string(kernel)) + ", threads " + std::to_string(threads));
      Matrix<double> sum(n, n, untouched);
      for (index_t i = 0; i < n; ++i) {
        for (index_t j = 0; j <= i; ++j) sum(i, j) = static_cast<double>(i - 3 * j);
      }
      make_cpu_backend(threads, kernel)->accumulate_hessian(x.cview(), scale, sum.view());
      for (index_t i = 0; i < n; ++i) {
        for (index_t j = 0; j < n; ++j) {
          const double expected =
              j <= i ? static_cast<double>(exact(x, scale, i, j) + i - 3 * j) : untouched;
          ASSERT_EQ(sum(i, j), expected) << "element " << i << ' ' << j;
        }
      }
    }
  }
}

TEST(Hessian, AwkwardSizes) {
  struct Size {
    index_t tokens;
    index_t channels;
  };
  for (const Size size : {Size{1, 1}, Size{1, 33}, Size{7, 15}, Size{63, 17}, Size{64, 32},
                          Size{65, 129}, Size{129, 260}, Size{300, 97}}) {
    SCOPED_TRACE(std::to_string(size.tokens) + " × " + std::to_string(size.channels));
    const auto x = random_integers(size.tokens, size.channels, 32767, 7);
    expect_exact(x, std::vector<float>(size.channels, 1.0F));
  }
}

TEST(Hessian, SeveralChunksOfTokens) {
  // A chunk holds at most 2048 tokens: several full ones and a rest.
  expect_exact(random_integers(2 * 4096 + 77, 19, 32767, 11), std::vector<float>(19, 1.0F));
}

TEST(Hessian, ExtremeIntegers) {
  for (const float value : {32767.0F, -32767.0F, -32768.0F, 128.0F, 127.0F, -128.0F, 0.0F}) {
    SCOPED_TRACE(value);
    Matrix<float> x(4097, 35, value);
    expect_exact(x, std::vector<float>(35, 1.0F));
  }
  Matrix<float> alternating(4097, 34);
  for (index_t t = 0; t < alternating.rows(); ++t) {
    for (index_t j = 0; j < 34; ++j) alternating(t, j) = (t + j) % 2 == 0 ? 32767.0F : -32767.0F;
  }
  expect_exact(alternating, std::vector<float>(34, 1.0F));
}

TEST(Hessian, EverySixteenBitInteger) {
  Matrix<float> x(65536, 1);
  for (index_t t = 0; t < x.rows(); ++t) x(t, 0) = static_cast<float>(t - 32768);
  // Σ z² over −2¹⁵ … 2¹⁵ − 1 = 2·Σ_{z<2¹⁵} z² + 2³⁰
  const double m = 32767.0;
  const double expected = m * (m + 1.0) * (2.0 * m + 1.0) / 3.0 + 1073741824.0;
  for (const HessianKernel kernel : supported_kernels()) {
    Matrix<double> sum(1, 1, 0.0);
    make_cpu_backend(2, kernel)->accumulate_hessian(x.cview(), std::vector<float>{1.0F},
                                                    sum.view());
    EXPECT_EQ(sum(0, 0), expected) << to_string(kernel);
  }
}

TEST(Hessian, RoundsScaledActivationsToNearestEven) {
  const index_t n = 40;
  std::mt19937 generator(3);
  Matrix<float> x(130, n);
  std::vector<float> scale(n);
  for (index_t j = 0; j < n; ++j) {
    const int exponent = static_cast<int>(j) - 20;
    scale[j] = std::ldexp(1.0F, 14 - exponent);
    for (index_t t = 0; t < x.rows(); ++t) {
      const float unit = static_cast<float>(generator() % 20001) / 10000.0F - 1.0F;
      x(t, j) = std::ldexp(unit, exponent);
    }
    x(0, j) = std::ldexp(0.5F, exponent - 14);  // ties: ½ → 0, 1½ → 2, −2½ → −2
    x(1, j) = std::ldexp(1.5F, exponent - 14);
    x(2, j) = std::ldexp(-2.5F, exponent - 14);
  }
  expect_exact(x, scale);

  Matrix<float> ties(3, 1);
  ties(0, 0) = 0.5F;
  ties(1, 0) = 1.5F;
  ties(2, 0) = -2.5F;
  for (const HessianKernel kernel : supported_kernels()) {
    Matrix<double> sum(1, 1, 0.0);
    make_cpu_backend(1, kernel)->accumulate_hessian(ties.cview(), std::vector<float>{1.0F},
                                                    sum.view());
    EXPECT_EQ(sum(0, 0), 8.0) << to_string(kernel);
  }
}

TEST(Hessian, ViewsWithStrides) {
  const auto wide = random_integers(70, 50, 1000, 5);
  Matrix<float> narrow(70, 21);
  for (index_t t = 0; t < 70; ++t) {
    for (index_t j = 0; j < 21; ++j) narrow(t, j) = wide(t, j + 9);
  }
  const std::vector<float> scale(21, 1.0F);
  for (const HessianKernel kernel : supported_kernels()) {
    Matrix<double> sum(25, 30, 0.0);
    make_cpu_backend(2, kernel)->accumulate_hessian(
        wide.cview().middle_cols(9, 21), scale, sum.view().middle_rows(2, 21).middle_cols(4, 21));
    for (index_t i = 0; i < 21; ++i) {
      for (index_t j = 0; j <= i; ++j) {
        ASSERT_EQ(sum(i + 2, j + 4), static_cast<double>(exact(narrow, scale, i, j)));
      }
      EXPECT_EQ(sum(i + 2, 3), 0.0);
    }
  }
}

TEST(Hessian, RefusesWhatDoesNotFitInSixteenBits) {
  constexpr float infinite = std::numeric_limits<float>::infinity();
  for (const HessianKernel kernel : supported_kernels()) {
    for (const float bad : {32768.0F, -32769.0F, 4194304.0F, -8388608.0F, -12582912.0F, 1e30F,
                            -1e30F, infinite, -infinite, std::nanf("")}) {
      auto x = random_integers(70, 37, 100, 1);
      x(69, 36) = bad;
      Matrix<double> sum(37, 37, 0.0);
      EXPECT_THROW(make_cpu_backend(2, kernel)->accumulate_hessian(
                       x.cview(), std::vector<float>(37, 1.0F), sum.view()),
                   Error)
          << to_string(kernel) << ' ' << bad;
    }
  }
}

TEST(Hessian, PanelsAreColumnsOfTheSum) {
  struct Panel {
    index_t channels;
    index_t first;
    index_t width;
  };
  for (const Panel panel : {Panel{300, 0, 128}, Panel{300, 128, 128}, Panel{300, 256, 44},
                            Panel{300, 0, 300}, Panel{97, 0, 97}, Panel{900, 256, 512}}) {
    SCOPED_TRACE(std::to_string(panel.channels) + ", " + std::to_string(panel.first));
    const auto x = random_integers(150, panel.channels, 32767, 13);
    const std::vector<float> scale(static_cast<std::size_t>(panel.channels), 1.0F);
    for (const HessianKernel kernel : supported_kernels()) {
      Matrix<double> sum(panel.channels - panel.first, panel.width, 3.0);
      make_cpu_backend(2, kernel)->accumulate_hessian_panel(x.cview(), scale, panel.first,
                                                            sum.view());
      for (index_t i = 0; i < sum.rows(); ++i) {
        for (index_t j = 0; j <= std::min(i, sum.cols() - 1); ++j) {
          const std::int64_t expected = exact(x, scale, panel.first + i, panel.first + j);
          ASSERT_EQ(sum(i, j), static_cast<double>(expected + 3)) << to_string(kernel);
        }
      }
    }
  }
}

TEST(Hessian, CrossSumsAreExact) {
  struct Shape {
    index_t tokens;
    index_t rows;
    index_t cols;
  };
  for (const Shape shape : {Shape{1, 1, 1}, Shape{70, 33, 5}, Shape{150, 300, 97},
                            Shape{2100, 40, 31}, Shape{65, 97, 300}}) {
    SCOPED_TRACE(std::to_string(shape.rows) + " x " + std::to_string(shape.cols));
    const auto e = random_integers(shape.tokens, shape.rows, 32767, 14);
    const auto x = random_integers(shape.tokens, shape.cols, 32767, 15);
    const std::vector<float> e_scale(static_cast<std::size_t>(shape.rows), 0.5F);
    const std::vector<float> scale(static_cast<std::size_t>(shape.cols), 1.0F);
    for (const HessianKernel kernel : supported_kernels()) {
      Matrix<double> sum(shape.rows, shape.cols, 3.0);
      make_cpu_backend(2, kernel)->accumulate_cross(e.cview(), e_scale, x.cview(), scale,
                                                    sum.view());
      for (index_t i = 0; i < sum.rows(); ++i) {
        for (index_t j = 0; j < sum.cols(); ++j) {
          double expected = 3;
          for (index_t t = 0; t < shape.tokens; ++t) {
            expected += std::nearbyint(0.5 * e(t, i)) * x(t, j);
          }
          ASSERT_EQ(sum(i, j), expected) << to_string(kernel) << " " << i << ", " << j;
        }
      }
    }
  }
}

TEST(Hessian, CrossSumsRefuseOtherShapes) {
  const Matrix<float> e(4, 3, 1.0F);
  const Matrix<float> x(4, 2, 1.0F);
  Matrix<double> sum(3, 2, 0.0);
  const std::vector<float> three(3, 1.0F);
  const std::vector<float> two(2, 1.0F);
  const auto backend = make_cpu_backend(1);
  EXPECT_NO_THROW(backend->accumulate_cross(e.cview(), three, x.cview(), two, sum.view()));
  EXPECT_THROW(backend->accumulate_cross(e.cview(), two, x.cview(), two, sum.view()), Error);
  EXPECT_THROW(backend->accumulate_cross(x.cview(), two, e.cview(), three, sum.view()), Error);
  const std::vector<float> huge(2, 1e6F);
  EXPECT_THROW(backend->accumulate_cross(e.cview(), three, x.cview(), huge, sum.view()), Error);
}

TEST(Hessian, NoTokensAddNothing) {
  const Matrix<float> x(0, 3);
  Matrix<double> sum(3, 3, 1.0);
  make_cpu_backend(2)->accumulate_hessian(x.cview(), std::vector<float>(3, 1.0F), sum.view());
  for (const double value : sum.span()) EXPECT_EQ(value, 1.0);
}

}  // namespace
}  // namespace quip::hessian_test
