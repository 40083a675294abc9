// What the transforms do to spiked matrices (QuIP, §4: μ before and after).
#include <cmath>

#include <gtest/gtest.h>

#include "quip/quant/round/tiles.hpp"
#include "quip/quant/transform/transform.hpp"

namespace quip::incoherence_test {
namespace {

/// √n·max|entry| of P₁ (O₁ ⊗ O₂) P₂, n = p·q, holds with probability 1 − 2δ: an entry of a Haar
/// matrix O₁ [p × p] is subgaussian with variance 1/p, so that √p·max|O₁| ≤ √(2 ln(2p²/δ)).
double kronecker_bound(index_t n) {
  constexpr double delta = 0.01;
  double bound = 1;
  index_t p = 1;
  for (index_t f = 1; f * f <= n; ++f) p = n % f == 0 ? f : p;
  for (const index_t factor : {p, n / p}) {
    const auto size = static_cast<double>(factor);
    bound *= std::sqrt(2 * std::log(2 * size * size / delta));
  }
  return bound;
}

// H diagonal with one spike and all eigenvalues distinct: its eigenvectors are the axes, μ = √n.
// Those of V H Vᵀ are the columns of V: μ falls to the bound, which grows like log n.
TEST(Incoherence, TheTransformSpreadsTheEigenvectorsOfASpikedHessian) {
  for (const index_t n : {index_t{1024}, index_t{2048}}) {
    const auto v = make_transform(TransformKind::kronecker, n, 10, Side::input);
    Matrix<double> eigenvectors(n, n, 0.0);
    for (index_t i = 0; i < n; ++i) eigenvectors(i, i) = 1.0;
    apply_in_slabs(*v, eigenvectors.view(), false);
    double most = 0;
    for (const double entry : eigenvectors.span()) most = std::max(most, std::abs(entry));
    const double before = std::sqrt(static_cast<double>(n));
    EXPECT_LE(most * before, kronecker_bound(n));
    EXPECT_LE(most * before, 2 * std::log(static_cast<double>(n)));
    EXPECT_LT(most * before, before / 2);
  }
}

// μ_W = max|W|·√(mn)/‖W‖_F of a single non-zero weight is √(mn), the largest there is. U W Vᵀ is a
// column of U times one of V: each side contributes a bound of its own, log m·log n together.
TEST(Incoherence, TheTransformSpreadsASpikedWeight) {
  const index_t m = 1024;
  const index_t n = 2048;
  LayerTransforms transforms = make_transforms(TransformKind::kronecker, m, n, 11, 12);
  Matrix<float> w(m, n, 0.0F);
  w(m / 3, n / 5) = 1.0F;
  const PreparedLayer plain;
  const RowTiles tiles = transform_rows(w.cview(), plain, transforms, {0, m});
  double most = 0;
  double energy = 0;
  for (index_t t = 0; t < tiles.count(); ++t) {
    const MatrixView<float> tile = tiles.tile(t);
    for (index_t i = 0; i < tile.size(); ++i) {
      most = std::max(most, std::abs(static_cast<double>(tile.data[i])));
      energy += static_cast<double>(tile.data[i]) * tile.data[i];
    }
  }
  EXPECT_NEAR(energy, 1.0, 1e-4);  // orthogonal transforms, in fp32
  const double before = std::sqrt(static_cast<double>(m * n));
  const double after = most * before / std::sqrt(energy);
  EXPECT_LE(after, kronecker_bound(m) * kronecker_bound(n));
  EXPECT_LT(after, before / 8);
}

}  // namespace
}  // namespace quip::incoherence_test
