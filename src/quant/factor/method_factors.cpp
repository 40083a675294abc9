#include "method_factors.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "constrained_feedback.hpp"

#include "quip/linalg/ldl.hpp"

namespace quip {
namespace {

/// Returns positions by ascending diagonal; equal ones keep their order.
std::vector<index_t> ascending(std::span<const double> diagonal) {
  std::vector<index_t> order(diagonal.size());
  std::iota(order.begin(), order.end(), index_t{0});
  std::ranges::stable_sort(order, {}, [&](index_t i) { return diagonal[at(i)]; });
  return order;
}

/// Fills OPTQ's factor: H⁻¹ = RᵀR, R upper. With J the reversal, J H J = (L+I) D (L+I)ᵀ makes R = J
/// D^{−½} (L+I)⁻¹ J: its rows over their diagonal are those of (L+I)⁻¹ reversed, and 1/R_kk² is D
/// reversed. H is read from the upper triangle of `h` and `damped`; the lower one is scratch.
index_t fill_inverse(const HessianMath& math, MatrixView<double> h, std::span<const double> damped,
                     LowerPanels& out) {
  const index_t n = h.rows;
  Matrix<double> reversed(n, n);
#pragma omp parallel for schedule(static)
  for (index_t i = 0; i < n; ++i) {
    const double* row = h.row(n - 1 - i);
    for (index_t j = 0; j < i; ++j) reversed(i, j) = row[n - 1 - j];
    reversed(i, i) = damped[at(n - 1 - i)];
  }
  out = LowerPanels(n);
  const index_t minor = math.ldl_factor(reversed.view(), out.diagonal);
  if (minor != 0) return minor;
  std::reverse(out.diagonal.begin(), out.diagonal.end());
  invert_unit_lower(reversed.cview(), h);
  out.pack_reversed(h);
  return 0;
}

}  // namespace

std::vector<index_t> column_order(const LayerOptions& options, std::span<const double> diagonal) {
  // NaN would break the sort; the factorisation refuses it by name.
  if (!std::ranges::all_of(diagonal, [](double value) { return std::isfinite(value); })) return {};
  std::vector<index_t> order;
  switch (traits_of(options.method).columns) {
    case Columns::stored:
      break;
    case Columns::by_order:
      if (options.order == ColumnOrder::forward) {
        order.resize(diagonal.size());
        std::iota(order.rbegin(), order.rend(), index_t{0});
      } else if (options.order == ColumnOrder::act) {
        order = ascending(diagonal);  // the largest last, where loops start
      }
      break;
    case Columns::by_act_order:
      if (options.act_order) {  // the largest first
        order = ascending(diagonal);
        std::reverse(order.begin(), order.end());
      }
      break;
    case Columns::by_diagonal:  // the largest last, where these loops start
      order = ascending(diagonal);
      break;
  }
  return order;
}

void permute_symmetric(MatrixView<double> h, const std::vector<index_t>& order) {
  const index_t n = h.rows;
#pragma omp parallel
  {
    std::vector<double> moved(at(n));
#pragma omp for schedule(static)
    for (index_t i = 0; i < n; ++i) {
      double* row = h.row(i);
      for (index_t j = 0; j < n; ++j) moved[at(j)] = row[order[at(j)]];
      std::copy(moved.begin(), moved.end(), row);
    }
  }
  // Moves rows along the permutation's cycles: one row of scratch instead of a second matrix.
  std::vector<bool> placed(at(n), false);
  std::vector<double> first_row(at(n));
  for (index_t start = 0; start < n; ++start) {
    if (placed[at(start)]) continue;
    std::copy_n(h.row(start), n, first_row.data());
    index_t i = start;
    for (; order[at(i)] != start; i = order[at(i)]) {
      std::copy_n(h.row(order[at(i)]), n, h.row(i));
      placed[at(i)] = true;
    }
    std::copy_n(first_row.data(), n, h.row(i));
    placed[at(i)] = true;
  }
}

index_t fill_factors(const HessianMath& math, MatrixView<double> h, std::span<const double> damped,
                     const LayerOptions& options, PreparedLayer& layer) {
  layer.factor.pack_lower(h);
  if (options.effective_passes() > 0) {
    layer.hessian = LowerPanels(h.rows);
    layer.hessian.pack_upper(h);
    layer.hessian.diagonal.assign(damped.begin(), damped.end());
  }
  const Feedback feedback = options.feedback();
  if (feedback == Feedback::inverse) return fill_inverse(math, h, damped, layer.feedback);
  if (feedback == Feedback::constrained) layer.feedback = constrained_feedback(h, damped);
  return 0;
}

}  // namespace quip
