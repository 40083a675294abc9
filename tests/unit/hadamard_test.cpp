// Hadamard matrices and the transform made of them.
#include "quip/quant/transform/hadamard.hpp"

#include <bit>
#include <cmath>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "quip/core/rng.hpp"
#include "quip/quant/transform/random_orthogonal.hpp"
#include "quip/quant/transform/transform.hpp"

namespace quip::hadamard_test {
namespace {

TEST(PaleyHadamard, RowsAreOrthogonalSigns) {
  for (const index_t b : {4, 8, 12, 20, 24, 28, 32, 36, 44, 76, 104, 108, 148, 252}) {
    const auto h = paley_hadamard(b);
    ASSERT_TRUE(h) << b;
    for (index_t i = 0; i < b; ++i) {
      for (index_t j = 0; j < b; ++j) {
        ASSERT_EQ(std::abs((*h)(i, j)), 1.0);
        ASSERT_EQ(std::inner_product(h->row(i), h->row(i) + b, h->row(j), 0.0), i == j ? b : 0);
      }
    }
  }
  // 16 − 1, 52 − 1, 172 − 1 are composite, 16/2 − 1 is 3 mod 4, 25 and 85 are composite too.
  for (const index_t b : {1, 2, 6, 10, 16, 43, 52, 86, 172}) EXPECT_FALSE(paley_hadamard(b)) << b;
}

// Widths of published models: hidden and feed-forward sizes of Llama, Mistral, Qwen2 and OPT.
TEST(HadamardShape, OfRealSizes) {
  const auto check = [](index_t n, index_t walsh, index_t order, bool paley) {
    const HadamardShape shape = hadamard_shape(n);
    EXPECT_EQ(shape.walsh, walsh) << n;
    EXPECT_EQ(shape.order, order) << n;
    EXPECT_EQ(shape.paley, paley) << n;
    EXPECT_EQ(shape.walsh * shape.order, n);
  };
  check(2048, 2048, 1, false);
  check(3584, 128, 28, true);
  check(4096, 4096, 1, false);
  check(4608, 128, 36, true);
  check(5120, 256, 20, true);
  check(5632, 128, 44, true);
  check(6656, 64, 104, true);
  check(8192, 8192, 1, false);
  check(11008, 256, 43, false);
  check(13696, 128, 107, false);
  check(13824, 128, 108, true);
  check(14336, 512, 28, true);
  check(18944, 128, 148, true);
  check(27648, 256, 108, true);
  check(28672, 1024, 28, true);
  check(53248, 512, 104, true);
}

// At a real size: energy is kept, and a single spike is spread evenly, |Q e₀| = 1/√n for ±1.
TEST(HadamardTransform, SpreadsASpikeEvenlyAtARealSize) {
  constexpr index_t n = 14336;
  const auto transform = make_transform(TransformKind::hadamard, n, 4, Side::input);
  const Matrix<float> x(n, 1, 0.0F);
  x(5, 0) = 1.0F;
  const Buffer<float> scratch(n);
  transform->apply(x.view(), scratch.data());
  const float expected = 1.0F / std::sqrt(static_cast<float>(n));
  for (index_t i = 0; i < n; ++i) ASSERT_NEAR(std::abs(x(i, 0)), expected, 1e-7F);
}

/// Q of `make_transform(hadamard, n, key)`, element by element from its definition: Sylvester's
/// matrix has the sign of the number of common bits, Q = (H ⊗ M) · diag(±1), rows of unit length.
class Definition {
 public:
  Definition(index_t n, std::uint64_t key)
      : shape_(hadamard_shape(n)),
        signs_(derive_key(key, "", "signs")),
        factor_(shape_.paley ? *paley_hadamard(shape_.order)
                             : random_orthogonal(shape_.order, derive_key(key, "", "odd factor"))),
        scale_(1.0 / std::sqrt(static_cast<double>(shape_.paley ? n : shape_.walsh))) {}

  [[nodiscard]] double operator()(index_t i, index_t j) const {
    const index_t b = shape_.order;
    const auto common = static_cast<std::uint64_t>((i / b) & (j / b));
    const bool odd = std::popcount(common) % 2 != 0;
    const bool negative = (signs_.bits(static_cast<std::uint64_t>(j)) & 1U) != 0;
    return (odd != negative ? -scale_ : scale_) * factor_(i % b, j % b);
  }

 private:
  HadamardShape shape_;
  RandomStream signs_;
  Matrix<double> factor_;
  double scale_;
};

class HadamardAtRealSizes : public testing::TestWithParam<index_t> {};

// Two columns with a few spikes each, in a matrix with a third that must stay as it is.
TEST_P(HadamardAtRealSizes, IsItsDefinition) {
  const index_t n = GetParam();
  const auto transform = make_transform(TransformKind::hadamard, n, 7, Side::output);
  const Definition q(n, 7);
  const index_t spikes[2][3] = {{0, n / 3, n - 1}, {5, n / 2, n - n / 5}};
  for (const bool transposed : {false, true}) {
    const Matrix<double> x(n, 3, 0.0);
    for (index_t c = 0; c < 2; ++c) {
      for (const index_t j : spikes[c]) x(j, c) = 1.0 + static_cast<double>(j % 7);
    }
    for (index_t i = 0; i < n; ++i) x(i, 2) = 0.25;
    const Buffer<double> scratch(n * 2);
    const MatrixView<double> part = x.view().middle_cols(0, 2);
    transposed ? transform->apply_transposed(part, scratch.data())
               : transform->apply(part, scratch.data());
    for (index_t i = 0; i < n; ++i) {
      for (index_t c = 0; c < 2; ++c) {
        double expected = 0;
        for (const index_t j : spikes[c]) {
          expected += (transposed ? q(j, i) : q(i, j)) * (1.0 + static_cast<double>(j % 7));
        }
        ASSERT_NEAR(x(i, c), expected, 1e-14) << i << ' ' << c << ' ' << transposed;
      }
      ASSERT_EQ(x(i, 2), 0.25) << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, HadamardAtRealSizes,
                         testing::Values(3584, 4096, 11008, 13696, 14336, 18944, 28672, 53248));

// Q = (I ⊗ H₁₂₈)·diag(±1) with the signs that an exporter would store, element by element.
TEST(Hadamard128, IsItsDefinition) {
  constexpr index_t n = 384;
  constexpr std::uint64_t key = 7;
  const auto transform = make_transform(TransformKind::hadamard_128, n, key, Side::output);
  const std::vector<double> signs = hadamard_signs(TransformKind::hadamard_128, n, key);
  EXPECT_NEAR(std::accumulate(signs.begin(), signs.end(), 0.0), 0.0, 4 * std::sqrt(n));
  for (const bool transposed : {false, true}) {
    Matrix<double> x(n, n, 0.0);
    for (index_t i = 0; i < n; ++i) x(i, i) = 1.0;
    const Buffer<double> scratch(n * n);
    transposed ? transform->apply_transposed(x.view(), scratch.data())
               : transform->apply(x.view(), scratch.data());
    for (index_t i = 0; i < n; ++i) {
      for (index_t j = 0; j < n; ++j) {
        const bool odd = std::popcount(static_cast<std::uint64_t>(i & j & 127)) % 2 != 0;
        const double sign = signs[at(transposed ? i : j)];
        ASSERT_EQ(std::abs(sign), 1.0);
        const double expected = i / 128 == j / 128 ? (odd ? -sign : sign) / std::sqrt(128.0) : 0.0;
        ASSERT_NEAR(x(i, j), expected, 1e-16) << i << ' ' << j << ' ' << transposed;
      }
    }
  }
}

}  // namespace
}  // namespace quip::hadamard_test
