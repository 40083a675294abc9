// Every rounder from its definition, one row at a time in fp64 and without blocks.
#pragma once

#include <numeric>

#include "support/hessians.hpp"

#include "quip/quant/options/options.hpp"

namespace quip::test {

/// Level q of a column stands for scale·(q − zero).
struct NaiveGrid {
  double scale = 1;
  double zero = 0;
};

/// One row: levels in the columns' own order, the grid of each, and its value before rounding, in
/// levels (for methods that round every column once).
struct NaiveRow {
  std::vector<double> levels;
  std::vector<double> targets;
  std::vector<NaiveGrid> grids;

  explicit NaiveRow(index_t n, std::vector<NaiveGrid> columns)
      : levels(at(n)), targets(at(n)), grids(std::move(columns)) {
    grids.resize(at(n));
  }
  /// Rounds column j to nearest; returns the weight that its level stands for.
  double round(std::size_t j, double weight, double top) {
    targets[j] = weight / grids[j].scale + grids[j].zero;
    levels[j] = std::clamp(std::floor(targets[j] + 0.5), 0.0, top);
    return grids[j].scale * (levels[j] - grids[j].zero);
  }
};

/// Returns OPTQ's minmax grid of the weights `w[j]`, j in `columns`.
template <typename Columns>
NaiveGrid fit_grid(const std::vector<double>& w, const Columns& columns, double top,
                   bool symmetric) {
  double low = 0;
  double high = 0;
  for (const index_t j : columns) {
    low = std::min(low, w[at(j)]);
    high = std::max(high, w[at(j)]);
  }
  if (symmetric) low = -(high = std::max(high, -low));
  if (high == low) low = -(high = 1);
  const double scale = (high - low) / top;
  return {scale, symmetric ? (top + 1) / 2 : std::nearbyint(-low / scale)};
}

/// Returns the grids of groups of `size` neighbouring columns as they are: static groups.
inline std::vector<NaiveGrid> group_grids(const std::vector<double>& w, index_t size, double top,
                                          bool symmetric) {
  std::vector<NaiveGrid> grids;
  const auto n = static_cast<index_t>(w.size());
  for (index_t first = 0; first < n; first += size) {
    std::vector<index_t> columns(at(std::min(size, n - first)));
    std::iota(columns.begin(), columns.end(), first);
    grids.insert(grids.end(), columns.size(), fit_grid(w, columns, top, symmetric));
  }
  return grids;
}

/// Returns the columns by ascending diagonal of H.
inline std::vector<index_t> ascending_order(const Matrix<double>& h) {
  std::vector<index_t> order(at(h.rows()));
  std::iota(order.begin(), order.end(), index_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](index_t a, index_t b) { return h(a, a) < h(b, b); });
  return order;
}

inline std::vector<index_t> natural_order(index_t n) {
  std::vector<index_t> order(at(n));
  std::iota(order.begin(), order.end(), index_t{0});
  return order;
}

inline Matrix<double> reordered(const Matrix<double>& h, const std::vector<index_t>& order) {
  Matrix<double> out(h.rows(), h.cols());
  for (index_t i = 0; i < h.rows(); ++i) {
    for (index_t j = 0; j < h.cols(); ++j) out(i, j) = h(order[at(i)], order[at(j)]);
  }
  return out;
}

/// Returns L of H = (L+I) D (L+I)ᵀ.
inline Matrix<double> ldl_feedback(const Matrix<double>& h) {
  Matrix<double> l = cholesky(h);
  for (index_t j = 0; j < h.rows(); ++j) {
    const double pivot = l(j, j);
    for (index_t i = j; i < h.rows(); ++i) l(i, j) /= pivot;
    l(j, j) = 0;
  }
  return l;
}

/// ŵₖ = clamp(Q(wₖ + Σ_{j>k} (wⱼ − ŵⱼ) L_jk)), positions from the last to the first of `order`.
/// `grids` of the columns; none: levels are weights.
inline NaiveRow naive_feedback(const std::vector<double>& w, const Matrix<double>& l, double top,
                               const std::vector<index_t>& order,
                               std::vector<NaiveGrid> grids = {}) {
  const index_t n = l.rows();
  NaiveRow row(n, std::move(grids));
  std::vector<double> error(at(n));
  for (index_t k = n - 1; k >= 0; --k) {
    const std::size_t column = at(order[at(k)]);
    double target = w[column];
    for (index_t j = k + 1; j < n; ++j) {
      target += error[at(j)] * l(j, k);
    }
    error[at(k)] = w[column] - row.round(column, target, top);
  }
  return row;
}

/// Returns the inverse Hessians of OBQ: element k belongs to the columns from position k on, the
/// earlier ones eliminated. Only row k of each is kept: [n × n].
inline Matrix<double> obq_rows(const Matrix<double>& h) {
  const index_t n = h.rows();
  Matrix<double> inverse = inverse_of(h);
  Matrix<double> rows(n, n, 0.0);
  for (index_t k = 0; k < n; ++k) {
    for (index_t j = k; j < n; ++j) rows(k, j) = inverse(k, j);
    for (index_t i = k + 1; i < n; ++i) {
      for (index_t j = k + 1; j < n; ++j) {
        inverse(i, j) -= rows(k, i) * rows(k, j) / rows(k, k);
      }
    }
  }
  return rows;
}

/// Does OPTQ as the paper derives it: round, spread the error by the inverse Hessian of the columns
/// that are left. `grids` of the columns; none: levels are weights. With `dynamic_size`, the grids
/// of this many positions are fitted to their weights at the turn of the first.
inline NaiveRow naive_optq(std::vector<double> w, const Matrix<double>& rows, double top,
                           const std::vector<index_t>& order, std::vector<NaiveGrid> grids = {},
                           index_t dynamic_size = 0, bool symmetric = false) {
  const index_t n = rows.rows();
  NaiveRow row(n, std::move(grids));
  for (index_t k = 0; k < n; ++k) {
    if (dynamic_size > 0 && k % dynamic_size == 0) {
      const std::vector<index_t> group(order.begin() + k,
                                       order.begin() + std::min(n, k + dynamic_size));
      const NaiveGrid grid = fit_grid(w, group, top, symmetric);
      for (const index_t j : group) row.grids[at(j)] = grid;
    }
    const std::size_t column = at(order[at(k)]);
    const double error = (w[column] - row.round(column, w[column], top)) / rows(k, k);
    for (index_t j = k; j < n; ++j) w[at(order[at(j)])] -= error * rows(k, j);
  }
  return row;
}

/// Does greedy passes from `start`. Clamp::feedback: tries every level and takes the best.
/// Clamp::pre: the authors' update, whose s goes on from the uncut levels.
inline std::vector<double> naive_greedy(const std::vector<double>& w, std::vector<double> start,
                                        const Matrix<double>& h, double top,
                                        const std::vector<index_t>& order, int passes,
                                        Clamp clamp) {
  const index_t n = h.rows();
  std::vector<double> s(at(n));
  for (std::size_t i = 0; i < s.size(); ++i) s[i] = start[i] - w[i];
  for (int pass = 0; pass < passes; ++pass) {
    for (index_t k = n - 1; k >= 0; --k) {
      const index_t i = order[at(k)];
      double product = 0;
      for (index_t j = 0; j < n; ++j) product += s[at(j)] * h(j, i);
      if (clamp == Clamp::pre) {
        const double change = std::floor(start[at(i)] - product / h(i, i) + 0.5) - start[at(i)];
        start[at(i)] += change;
        s[at(i)] += change;
        continue;
      }
      double best = 0;
      double least = INFINITY;
      for (double level = 0; level <= top; ++level) {
        const double change = level - start[at(i)];
        const double loss = 2 * change * product + change * change * h(i, i);
        if (loss < least) {
          least = loss;
          best = level;
        }
      }
      s[at(i)] += best - start[at(i)];
      start[at(i)] = best;
    }
    if (clamp == Clamp::pre) {
      for (double& level : start) level = std::clamp(level, 0.0, top);
    }
  }
  return start;
}

/// Returns Z of LDL-ADMM: the iteration in its textbook variables, row by row with dense solves.
inline Matrix<double> naive_admm(const Matrix<double>& h_in, double penalty, int iterations) {
  const index_t n = h_in.rows();
  Matrix<double> h = copy_of(h_in);
  double largest = 0;
  for (index_t i = 0; i < n; ++i) largest = std::max(largest, h(i, i));
  for (index_t i = 0; i < n * n; ++i) h.data()[i] /= largest;
  Matrix<double> shifted = copy_of(h);
  for (index_t i = 0; i < n * n; ++i) shifted.data()[i] *= 2;
  for (index_t i = 0; i < n; ++i) shifted(i, i) += penalty;
  const Matrix<double> c = cholesky(shifted);  // its leading parts factorise the leading parts
  Matrix<double> x(n, n, 0.0);
  Matrix<double> y(n, n, 0.0);
  Matrix<double> z(n, n, 0.0);
  for (int step = 0; step < iterations; ++step) {
    for (index_t i = 0; i < n; ++i) {
      std::vector<double> g(at(i));
      for (index_t j = 0; j < i; ++j) {
        g[at(j)] = penalty * (z(i, j) - y(i, j)) - 2 * h(i, j);
        for (index_t k = 0; k < j; ++k) g[at(j)] -= c(j, k) * g[at(k)];
        g[at(j)] /= c(j, j);
      }
      for (index_t j = i - 1; j >= 0; --j) {
        for (index_t k = j + 1; k < i; ++k) g[at(j)] -= c(k, j) * g[at(k)];
        g[at(j)] /= c(j, j);
        x(i, j) = g[at(j)];
      }
    }
    for (index_t j = 0; j < n; ++j) {
      double energy = 0;
      for (index_t i = 0; i < n; ++i) energy += (x(i, j) + y(i, j)) * (x(i, j) + y(i, j));
      const double excess = std::max(1.0, std::sqrt(energy));
      for (index_t i = 0; i < n; ++i) {
        z(i, j) = (x(i, j) + y(i, j)) / excess;
        y(i, j) += x(i, j) - z(i, j);
      }
    }
  }
  return z;
}

/// Returns (I+Z)⁻¹ − I.
inline Matrix<double> admm_feedback(const Matrix<double>& z) {
  Matrix<double> unit = copy_of(z);
  for (index_t i = 0; i < z.rows(); ++i) unit(i, i) = 1.0;
  Matrix<double> l = inverse_of(unit);
  for (index_t i = 0; i < z.rows(); ++i) l(i, i) = 0.0;
  return l;
}

}  // namespace quip::test
