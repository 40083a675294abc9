// A positive definite matrix over any grid, and the residual of its factorisation.
#pragma once

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "quip/core/rng.hpp"
#include "quip/linalg/blas.hpp"
#include "quip/linalg/distributed_ldl.hpp"

namespace quip::test {

inline constexpr index_t block = 128;

/// A positive definite H, by index alone: s_i s_j k(i − j) with a positive definite function k.
class TestMatrix {
 public:
  explicit TestMatrix(index_t n) : n_(n) {
    const RandomStream random(17);
    for (index_t i = 0; i < n; ++i) {
      scale_.push_back(0.5 + random.uniform(static_cast<std::uint64_t>(i)));
    }
  }
  [[nodiscard]] double operator()(index_t i, index_t j) const {
    const auto d = static_cast<double>(i - j);
    const double kernel = std::exp(-std::abs(d) / 20) * std::cos(0.3 * d) + (i == j ? 0.1 : 0.0);
    return kernel * scale_[static_cast<std::size_t>(i)] * scale_[static_cast<std::size_t>(j)];
  }
  [[nodiscard]] index_t n() const { return n_; }

  [[nodiscard]] DistributedMatrix over(const GridShape& grid, int rank) const {
    DistributedMatrix h(BlockCyclic(n_, block, grid), rank);
    const BlockCyclic& layout = h.layout();
    for (index_t j = 0; j < layout.blocks(); ++j) {
      for (index_t i = 0; i < layout.blocks(); ++i) {
        if (!h.owns(i, j)) continue;
        for (index_t c = 0; c < layout.cols.width(j); ++c) {
          for (index_t r = 0; r < layout.rows.width(i); ++r) {
            h.block(i, j)[c * h.ld() + r] =
                i < j ? std::nan("") : (*this)(i * block + r, j * block + c);
          }
        }
      }
    }
    return h;
  }

 private:
  index_t n_;
  std::vector<double> scale_;
};

/// Returns L + I of a factorised matrix, whole.
inline Matrix<double> gather_lower(Collectives& comm, const DistributedMatrix& h) {
  const BlockCyclic& layout = h.layout();
  Matrix<double> lower(layout.n(), layout.n(), 0.0);
  BlockColumn<double> column(layout);
  for (index_t j = 0; j < layout.blocks(); ++j) {
    column.gather(comm, h, j, j);
    const index_t width = layout.cols.width(j);
    for (index_t i = j; i < layout.blocks(); ++i) {
      for (index_t r = 0; r < layout.rows.width(i); ++r) {
        for (index_t c = 0; c < width && (i > j || c < r); ++c) {
          lower(i * block + r, j * block + c) = column.block(i)[r * width + c];
        }
      }
    }
  }
  for (index_t i = 0; i < layout.n(); ++i) lower(i, i) = 1.0;
  return lower;
}

struct Factors {
  Matrix<double> lower;
  std::vector<double> d;
};

inline Factors factorise(Collectives& comm, const TestMatrix& matrix, const GridShape& grid,
                         const DistributedCholesky& how) {
  DistributedMatrix h = matrix.over(grid, comm.rank());
  Factors factors;
  factors.d.resize(static_cast<std::size_t>(matrix.n()));
  EXPECT_EQ(distributed_ldl(comm, h, how, factors.d), 0);
  factors.lower = gather_lower(comm, h);
  return factors;
}

/// Returns ‖H − (L+I) D (L+I)ᵀ‖ / ‖H‖, Frobenius.
inline double residual(const TestMatrix& matrix, const Factors& factors) {
  const index_t n = matrix.n();
  Matrix<double> scaled(n, n);
  for (index_t i = 0; i < n; ++i) {
    for (index_t j = 0; j < n; ++j) {
      scaled(i, j) = factors.lower(i, j) * factors.d[static_cast<std::size_t>(j)];
    }
  }
  Matrix<double> product(n, n);
  gemm(Transpose::no, Transpose::yes, 1.0, scaled.cview(), factors.lower.cview(), 0.0,
       product.view());
  double error = 0;
  double norm = 0;
  for (index_t i = 0; i < n; ++i) {
    for (index_t j = 0; j < n; ++j) {
      const double value = matrix(i, j);
      error += (product(i, j) - value) * (product(i, j) - value);
      norm += value * value;
    }
  }
  return std::sqrt(error / norm);
}

/// Returns the grids for which this many ranks suffice.
inline std::vector<GridShape> grids(int ranks) {
  std::vector<GridShape> fitting;
  for (const GridShape grid : {GridShape{1, 1}, {2, 1}, {1, 2}, {2, 2}, {3, 2}, {2, 3}}) {
    if (grid.size() <= ranks) fitting.push_back(grid);
  }
  return fitting;
}

/// Returns a matrix of order 400 whose leading minor 201 is the first that is not positive.
inline DistributedMatrix indefinite(const GridShape& grid, int rank) {
  const TestMatrix matrix(400);
  std::vector<double> diagonal;
  for (index_t i = 0; i < matrix.n(); ++i) diagonal.push_back(matrix(i, i));
  diagonal[200] = -1.0;  // minors up to 200 are those of a positive definite matrix
  DistributedMatrix h = matrix.over(grid, rank);
  h.set_diagonal(diagonal);
  return h;
}

}  // namespace quip::test
