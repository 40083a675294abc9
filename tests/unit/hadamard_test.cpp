// Hadamard matrices and the transform made of them.
#include "quip/quant/hadamard.hpp"

#include <cmath>
#include <numeric>

#include <gtest/gtest.h>

#include "quip/quant/transform.hpp"

namespace quip {
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

}  // namespace
}  // namespace quip
