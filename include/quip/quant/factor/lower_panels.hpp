// The triangular matrices that rounding reads over and over, in the order in which it reads them.
#pragma once

#include <vector>

#include "quip/core/matrix.hpp"

namespace quip {

/// A strictly lower triangular matrix in fp32 and a diagonal in fp64. Block columns of fixed width:
/// block b holds rows b·block … n-1 of its columns, row-major, so that the update of all other
/// blocks by one block is one product. Holds the factors L and D of H = (L+I) D (L+I)ᵀ, or a
/// symmetric matrix.
struct LowerPanels {
  static constexpr index_t block = 128;

  index_t n = 0;
  Buffer<float> panels;
  std::vector<double> diagonal;

  LowerPanels() = default;
  explicit LowerPanels(index_t order);
  /// Makes the shape and a diagonal to fill, for panels that are elsewhere.
  [[nodiscard]] static LowerPanels outline(index_t order);
  [[nodiscard]] bool empty() const { return n == 0; }
  [[nodiscard]] index_t blocks() const { return (n + block - 1) / block; }
  [[nodiscard]] index_t first_column(index_t b) const { return b * block; }
  [[nodiscard]] index_t width(index_t b) const;
  /// Returns a panel, whose element (i, j) is that at (first_column + i, first_column + j).
  [[nodiscard]] MatrixView<float> panel(index_t b) const;
  [[nodiscard]] index_t panel_offset(index_t b) const;

  /// Takes the strict lower triangle of `a` [n × n]; the diagonal is left alone.
  void pack_lower(MatrixView<const double> a);
  /// Takes the strict upper triangle, transposed.
  void pack_upper(MatrixView<const double> a);
  /// Takes the strict lower triangle reflected at the other diagonal: (i, j) is a(n−1−j, n−1−i).
  void pack_reversed(MatrixView<const double> a);
};

}  // namespace quip
