#include "constrained_feedback.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "quip/core/error.hpp"
#include "quip/linalg/blas.hpp"
#include "quip/linalg/ldl.hpp"

namespace quip {
namespace {

// The authors' settings, for H scaled to a largest diagonal element of 1.
constexpr double penalty = 0.1;
constexpr index_t rows_at_once = 128;
constexpr index_t panel_cols = 256;
constexpr index_t smallest_shared = 256;  // below it waking threads costs more than it gains

/// ADMM on min f(X) + g(Z) with X = Z, f the objective on strictly lower X and g the bound on Z's
/// columns. Of Z and the scaled dual Y only T = X + Y is kept, with the columns' excess
/// cⱼ = max(1, ‖T_{:,j}‖): Z = T C⁻¹ and Y = T − Z.
class Admm {
 public:
  Admm(MatrixView<const double> h, std::span<const double> diagonal)
      : h_(h), t_(h.rows, h.rows, 0.0), excess_(at(h.rows), 1.0), pivots_(at(h.rows)) {
    const index_t n = h.rows;
    scale_ = 1.0 / *std::max_element(diagonal.begin(), diagonal.end());
    // 2H + ρI = (L+I) D (L+I)ᵀ, of which N = (L+I)⁻¹ is kept: its leading parts are the inverses of
    // those of L+I, and products run several times as fast as triangular solves. In fp32, as the
    // feedback is used: T, which carries the iteration, stays in fp64.
    Matrix<double> factor(n, n);
#pragma omp parallel for schedule(dynamic, rows_at_once)
    for (index_t i = 0; i < n; ++i) {
      for (index_t j = 0; j < i; ++j) factor(i, j) = 2 * scale_ * h(j, i);
      factor(i, i) = 2 * scale_ * diagonal[at(i)] + penalty;
    }
    if (ldl_factor(factor.view(), pivots_) != 0) {
      fail("ldl-admm: 2H + ρI is not positive definite; use a larger --damp");
    }
    Matrix<double> inverse(n, n);
    invert_unit_lower(factor.cview(), inverse.view());
    inverse_ = Matrix<float>(n, n, 0.0F);
    for (index_t i = 0; i < n; ++i) {
      for (index_t j = 0; j < i; ++j) inverse_(i, j) = static_cast<float>(inverse(i, j));
      inverse_(i, i) = 1;
    }
  }

  void iterate() {
#pragma omp parallel if (t_.rows() > smallest_shared)
    {
      Matrix<float> x(rows_at_once, t_.rows());
      Matrix<float> y(rows_at_once, t_.rows());
#pragma omp for schedule(dynamic)
      for (index_t i = 0; i < t_.rows(); i += rows_at_once) {
        update_rows(i, std::min(rows_at_once, t_.rows() - i), x, y);
      }
    }
    update_excess();
  }

  /// Puts Z = T C⁻¹ into T.
  [[nodiscard]] MatrixView<double> solution() {
#pragma omp parallel for schedule(static)
    for (index_t i = 0; i < t_.rows(); ++i) {
      for (index_t j = 0; j < i; ++j) t_(i, j) /= excess_[at(j)];
    }
    return t_.view();
  }

 private:
  /// Sets X to minimise f(X) + ρ/2·‖X − Z + Y‖²: on every row's support j < i
  ///   X (2H + ρI) = G = ρ(Z − Y) − 2H,
  /// which the leading parts of the factor solve: X = ((G Nᵀ) ∘ mask) D⁻¹ N.
  void update_rows(index_t first, index_t count, Matrix<float>& x, Matrix<float>& y) {
    const index_t n = first + count;
    set_right_side(first, count, x);
    for (index_t j = 0; j < n; j += panel_cols) {  // G Nᵀ: row j of N ends at column j
      const index_t end = std::min(n, j + panel_cols);
      gemm(Transpose::no, Transpose::yes, 1.0F, block(x, count, 0, end),
           inverse_block(j, end, 0, end), 0.0F, block(y, count, j, end));
    }
    for (index_t i = 0; i < count; ++i) {
      for (index_t j = 0; j < first + i; ++j) y(i, j) /= static_cast<float>(pivots_[at(j)]);
      std::fill(y.row(i) + first + i, y.row(i) + n, 0.0F);
    }
    for (index_t j = 0; j < n; j += panel_cols) {  // … N: column j of N begins at row j
      const index_t end = std::min(n, j + panel_cols);
      gemm(Transpose::no, Transpose::no, 1.0F, block(y, count, j, n), inverse_block(j, n, j, end),
           0.0F, block(x, count, j, end));
    }
    for (index_t i = 0; i < count; ++i) {  // T ← X + Y
      double* row = t_.row(first + i);
      for (index_t j = 0; j < first + i; ++j) row[j] = x(i, j) + row[j] * (1 - 1 / excess_[at(j)]);
    }
  }

  /// Fills G, zero off the support, in tiles, because H is stored transposed.
  void set_right_side(index_t first, index_t count, Matrix<float>& g) const {
    constexpr index_t tile = 32;
    const index_t n = first + count;
    for (index_t j0 = 0; j0 < n; j0 += tile) {
      for (index_t i = first; i < n; ++i) {
        const index_t support = std::clamp(i, j0, std::min(n, j0 + tile));
        for (index_t j = j0; j < support; ++j) {
          const double own = 2 / excess_[at(j)] - 1;  // Z − Y = T (2 C⁻¹ − I)
          g(i - first, j) = static_cast<float>(penalty * own * t_(i, j) - 2 * scale_ * h_(j, i));
        }
        std::fill(g.row(i - first) + support, g.row(i - first) + std::min(n, j0 + tile), 0.0F);
      }
    }
  }

  /// Returns columns [first, last) of the first `rows` rows.
  [[nodiscard]] static MatrixView<float> block(Matrix<float>& x, index_t rows, index_t first,
                                               index_t last) {
    return {x.data() + first, rows, last - first, x.cols()};
  }
  [[nodiscard]] MatrixView<const float> inverse_block(index_t first_row, index_t last_row,
                                                      index_t first_col, index_t last_col) const {
    return {inverse_.data() + first_row * inverse_.cols() + first_col, last_row - first_row,
            last_col - first_col, inverse_.cols()};
  }

  void update_excess() {
    const index_t n = t_.rows();
#pragma omp parallel for schedule(dynamic) if (n > smallest_shared)
    for (index_t first = 0; first < n; first += rows_at_once) {
      const index_t last = std::min(n, first + rows_at_once);
      std::vector<double> energy(at(last - first), 0.0);
      for (index_t i = first; i < n; ++i) {
        for (index_t j = first; j < std::min(i, last); ++j) {
          energy[at(j - first)] += t_(i, j) * t_(i, j);
        }
      }
      for (index_t j = first; j < last; ++j) {
        excess_[at(j)] = std::max(1.0, std::sqrt(energy[at(j - first)]));
      }
    }
  }

  MatrixView<const double> h_;
  double scale_ = 1;
  Matrix<double> t_;
  std::vector<double> excess_;
  Matrix<float> inverse_;  ///< N, zero above the diagonal
  std::vector<double> pivots_;
};

}  // namespace

LowerPanels constrained_feedback(MatrixView<const double> h, std::span<const double> diagonal) {
  Admm admm(h, diagonal);
  for (int i = 0; i < constrained_feedback_iterations; ++i) admm.iterate();
  Matrix<double> feedback(h.rows, h.rows);
  invert_unit_lower(admm.solution(), feedback.view());
  LowerPanels panels(h.rows);
  panels.pack_lower(feedback.cview());
  std::fill(panels.diagonal.begin(), panels.diagonal.end(), 0.0);
  return panels;
}

}  // namespace quip
