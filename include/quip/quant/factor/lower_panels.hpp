// The triangular matrices that rounding reads over and over, in the order in which it reads them.
#pragma once

#include <exception>
#include <memory>
#include <vector>

#include "quip/core/matrix.hpp"

namespace quip {

/// Hands out the panels of a matrix that no rank holds as a whole. Collective: all ranks ask for
/// the same ones in the same order.
class PanelSource {
 public:
  PanelSource() = default;
  PanelSource(const PanelSource&) = delete;
  PanelSource& operator=(const PanelSource&) = delete;
  virtual ~PanelSource() = default;

  /// Comes before the first panel of a sweep: throws on all ranks if one of them has failed by now
  /// and given up inside `agree`.
  virtual void start() = 0;
  /// Returns panel b as LowerPanels::panel lays it out, strictly lower; valid until the next call.
  [[nodiscard]] virtual MatrixView<const float> panel(index_t b) = 0;
  /// Returns the diagonal where the panels are, if they are not in host memory; else null.
  [[nodiscard]] virtual const double* diagonal() const { return nullptr; }
};

/// A strictly lower triangular matrix in fp32 and a diagonal in fp64. Block columns of fixed width:
/// block b holds rows b·block … n-1 of its columns, row-major, so that the update of all other
/// blocks by one block is one product. Holds the factors L and D of H = (L+I) D (L+I)ᵀ, or a
/// symmetric matrix.
struct LowerPanels {
  static constexpr index_t block = 128;

  index_t n = 0;
  Buffer<float> panels;
  std::vector<double> diagonal;
  std::unique_ptr<PanelSource> source;  ///< has the panels if they are not here; else null

  LowerPanels() = default;
  explicit LowerPanels(index_t order);
  /// Makes the shape and a diagonal to fill, for panels that are elsewhere.
  [[nodiscard]] static LowerPanels outline(index_t order);
  [[nodiscard]] bool empty() const { return n == 0; }
  /// True if the panels are in memory: any thread may read any of them at any time. Else they come
  /// from `source`.
  [[nodiscard]] bool resident() const { return source == nullptr; }
  [[nodiscard]] index_t blocks() const { return (n + block - 1) / block; }
  [[nodiscard]] index_t first_column(index_t b) const { return b * block; }
  [[nodiscard]] index_t width(index_t b) const;
  /// Returns panel b, whose element (i, j) is that at (first_column + i, first_column + j).
  [[nodiscard]] MatrixView<const float> panel(index_t b) const;
  /// Returns the diagonal from block b on, in the panels' memory.
  [[nodiscard]] const double* diagonal_of(index_t b) const {
    const double* there = source ? source->diagonal() : nullptr;
    return (there != nullptr ? there : diagonal.data()) + first_column(b);
  }
  /// Returns the place of that panel in a resident matrix, to be filled.
  [[nodiscard]] MatrixView<float> place(index_t b) const;
  [[nodiscard]] index_t panel_offset(index_t b) const;

  /// Calls take(b, panel) for every panel, from the first or from the last. If they come from
  /// `source`, ranks gather them together, and what `take` throws is thrown when all have come by.
  template <typename Take>
  void for_each_panel(bool forward, Take take) const {
    if (source) source->start();
    std::exception_ptr failure;
    for (index_t i = 0; i < blocks(); ++i) {
      const index_t b = forward ? i : blocks() - 1 - i;
      const MatrixView<const float> part = panel(b);
      try {
        if (!failure) take(b, part);
      } catch (...) {
        failure = std::current_exception();
      }
    }
    if (failure) std::rethrow_exception(failure);
  }

  /// Takes the strict lower triangle of `a` [n × n]; the diagonal is left alone.
  void pack_lower(MatrixView<const double> a);
  /// Takes the strict upper triangle, transposed.
  void pack_upper(MatrixView<const double> a);
  /// Takes the strict lower triangle reflected at the other diagonal: (i, j) is a(n−1−j, n−1−i).
  void pack_reversed(MatrixView<const double> a);
};

}  // namespace quip
