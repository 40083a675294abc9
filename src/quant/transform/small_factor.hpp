// A small matrix in both precisions, applied to slabs with the bits of ordered_gemm.
#pragma once

#include <algorithm>
#include <type_traits>
#include <utility>
#include <vector>

#include "quip/linalg/ordered_gemm.hpp"
#include "quip/quant/transform/random_orthogonal.hpp"
#include "quip/quant/transform/transform.hpp"

namespace quip {

class SmallFactor {
 public:
  SmallFactor() = default;
  explicit SmallFactor(Matrix<double> matrix)
      : double_(std::move(matrix)), single_(to_single(double_)) {}

  [[nodiscard]] index_t order() const { return double_.rows(); }
  /// Returns it in double precision, of which single is the rounding.
  [[nodiscard]] MatrixView<const double> view() const { return double_.cview(); }

  /// Computes Y = rows [first, last) of A (or Aᵀ) times X [order × width]; rows of X and Y are
  /// `ldx` and `ldy` apart.
  template <typename T>
  void multiply(bool transposed, index_t first, index_t last, index_t width, const T* x,
                index_t ldx, T* y, index_t ldy) const {
    const index_t n = order();
    const T* a = get<T>().data();
    // Built member by member: a copied view would be read back while its stores are under way.
    const StridedView<T> view{a + first * (transposed ? 1 : n), transposed ? 1 : n,
                              transposed ? n : 1};
    ordered_product<T>(last - first, width, n, view, x, ldx, y, ldy);
  }

 private:
  template <typename T>
  [[nodiscard]] const Matrix<T>& get() const {
    if constexpr (std::is_same_v<T, float>) {
      return single_;
    } else {
      return double_;
    }
  }

  Matrix<double> double_;
  Matrix<float> single_;
};

/// Adds the step of `gather_rows`, or of `scatter_rows` below, if there is one.
inline void add_gather(const std::vector<index_t>& order, std::vector<TransformStep>& steps) {
  if (!order.empty()) steps.push_back({.kind = TransformStep::Kind::gather, .order = order});
}
inline void add_scatter(const std::vector<index_t>& order, std::vector<TransformStep>& steps) {
  if (!order.empty()) steps.push_back({.kind = TransformStep::Kind::scatter, .order = order});
}

/// Copies row order[i] of X to row i of `out`.
template <typename T>
void gather_rows(MatrixView<T> x, const std::vector<index_t>& order, T* out) {
  for (index_t i = 0; i < x.rows; ++i) {
    const index_t from = order.empty() ? i : order[static_cast<std::size_t>(i)];
    std::copy_n(x.row(from), x.cols, out + i * x.cols);
  }
}

/// Copies row i of `in` to row order[i] of X.
template <typename T>
void scatter_rows(const T* in, const std::vector<index_t>& order, MatrixView<T> x) {
  for (index_t i = 0; i < x.rows; ++i) {
    const index_t to = order.empty() ? i : order[static_cast<std::size_t>(i)];
    std::copy_n(in + i * x.cols, x.cols, x.row(to));
  }
}

}  // namespace quip
