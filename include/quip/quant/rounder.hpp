// Rounders: from grid coordinates to grid points. One file each; see CONTRIBUTING.md.
#pragma once

#include <memory>
#include <span>

#include "quip/core/matrix.hpp"
#include "quip/quant/factor.hpp"
#include "quip/quant/options.hpp"

namespace quip {

/// Rounds tiles of rows. Rows are independent; a rounder may not let one see another.
class Rounder {
 public:
  Rounder() = default;
  Rounder(const Rounder&) = delete;
  Rounder& operator=(const Rounder&) = delete;
  virtual ~Rounder() = default;

  /// `w` [n × lanes] holds grid coordinates (any real number); every element of `q` [n × lanes]
  /// becomes one of 0 … top. `loss` [lanes] receives, row by row, the damped proxy loss
  /// (q−w) H (q−w)ᵀ in grid units. Lanes is a multiple of RowTiles::lane_unit. Serial.
  virtual void round(const LdlFactor& factor, float top, MatrixView<const float> w,
                     MatrixView<float> q, std::span<double> loss) const = 0;
};

/// Method → rounder: the one place of that choice.
[[nodiscard]] std::unique_ptr<Rounder> make_rounder(Method method);

[[nodiscard]] std::unique_ptr<Rounder> make_nearest();
[[nodiscard]] std::unique_ptr<Rounder> make_ldlq();

/// Adds x H xᵀ = Σₖ Dₖ (x(L+I))ₖ² of every row of a transposed tile `x` [n × lanes] to `norm`
/// [lanes]. Cost n² flops a row.
void add_hessian_norm(const LdlFactor& factor, MatrixView<const float> x, std::span<double> norm);

}  // namespace quip
