#include "constrained_feedback.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "quip/core/error.hpp"
#include "quip/linalg/ldl.hpp"
#include "quip/linalg/triangular.hpp"

namespace quip {
namespace {

// The authors' settings, for H scaled to a largest diagonal element of 1.
constexpr double penalty = 0.1;
constexpr int iterations = 100;
constexpr index_t rows_at_once = 64;
constexpr index_t smallest_shared = 256;  // below it waking threads costs more than they do

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

/// ADMM on min f(X) + g(Z) with X = Z, f the objective on strictly lower X and g the bound on Z's
/// columns. Of Z and the scaled dual Y only T = X + Y is kept, with the columns' excess
/// cⱼ = max(1, ‖T_{:,j}‖): Z = T C⁻¹ and Y = T − Z.
class Admm {
 public:
  Admm(MatrixView<const double> h, std::span<const double> diagonal)
      : h_(h), t_(h.rows, h.rows, 0.0), excess_(at(h.rows), 1.0), pivots_(at(h.rows)) {
    const index_t n = h.rows;
    scale_ = 1.0 / *std::max_element(diagonal.begin(), diagonal.end());
    // 2H + ρI = (L+I) D (L+I)ᵀ
    factor_ = Matrix<double>(n, n);
#pragma omp parallel for schedule(dynamic, rows_at_once)
    for (index_t i = 0; i < n; ++i) {
      for (index_t j = 0; j < i; ++j) factor_(i, j) = 2 * scale_ * h(j, i);
      factor_(i, i) = 2 * scale_ * diagonal[at(i)] + penalty;
    }
    if (ldl_factor(factor_.view(), pivots_) != 0) {
      fail("ldl-admm: 2H + ρI is not positive definite; use a larger --damp");
    }
  }

  void iterate() {
#pragma omp parallel for schedule(dynamic) if (t_.rows() > smallest_shared)
    for (index_t i = 0; i < t_.rows(); i += rows_at_once) {
      update_rows(i, std::min(rows_at_once, t_.rows() - i));
    }
    update_excess();
  }

  /// Z = T C⁻¹ into T.
  [[nodiscard]] MatrixView<double> solution() {
#pragma omp parallel for schedule(static)
    for (index_t i = 0; i < t_.rows(); ++i) {
      for (index_t j = 0; j < i; ++j) t_(i, j) /= excess_[at(j)];
    }
    return t_.view();
  }

 private:
  /// X minimises f(X) + ρ/2·‖X − Z + Y‖²: on every row's support j < i
  ///   X (2H + ρI) = G = ρ(Z − Y) − 2H,
  /// which the leading parts of the factor solve: X = ((G (L+I)⁻ᵀ) ∘ mask) D⁻¹ (L+I)⁻¹.
  void update_rows(index_t first, index_t count) {
    const index_t n = first + count;
    Matrix<double> x(count, n, 0.0);
    for (index_t j = 0; j < n; ++j) {
      const double own = 2 / excess_[at(j)] - 1;  // Z − Y = T (2 C⁻¹ − I)
      for (index_t i = std::max(first, j + 1); i < n; ++i) {
        x(i - first, j) = penalty * own * t_(i, j) - 2 * scale_ * h_(j, i);
      }
    }
    const MatrixView<const double> leading(factor_.data(), n, n, factor_.cols());
    solve_right_transposed(leading, x.view());
    for (index_t i = 0; i < count; ++i) {
      for (index_t j = 0; j < first + i; ++j) x(i, j) /= pivots_[at(j)];
      std::fill(x.row(i) + first + i, x.row(i) + n, 0.0);
    }
    solve_right(leading, x.view());
    for (index_t i = 0; i < count; ++i) {  // T ← X + Y
      double* row = t_.row(first + i);
      for (index_t j = 0; j < first + i; ++j) row[j] = x(i, j) + row[j] * (1 - 1 / excess_[at(j)]);
    }
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
  Matrix<double> factor_;
  std::vector<double> pivots_;
};

}  // namespace

LowerPanels constrained_feedback(MatrixView<const double> h, std::span<const double> diagonal) {
  Admm admm(h, diagonal);
  for (int i = 0; i < iterations; ++i) admm.iterate();
  Matrix<double> feedback(h.rows, h.rows);
  invert_unit_lower(admm.solution(), feedback.view());
  LowerPanels panels(h.rows);
  panels.pack_lower(feedback.cview());
  std::fill(panels.diagonal.begin(), panels.diagonal.end(), 0.0);
  return panels;
}

}  // namespace quip
