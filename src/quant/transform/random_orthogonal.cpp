#include "quip/quant/transform/random_orthogonal.hpp"

#include <algorithm>
#include <vector>

#include "quip/core/error.hpp"
#include "quip/core/rng.hpp"

// LAPACK, column-major.
extern "C" {
void dgeqrf_(const int* m, const int* n, double* a, const int* lda, double* tau, double* work,
             const int* lwork, int* info);
void dorgqr_(const int* m, const int* n, const int* k, double* a, const int* lda, const double* tau,
             double* work, const int* lwork, int* info);
}

namespace quip {

Factorization balanced_factors(index_t n) {
  Factorization best{1, n};
  for (index_t p = 2; p * p <= n; ++p) {
    if (n % p == 0) best = {p, n / p};
  }
  return best;
}

Matrix<double> random_orthogonal(index_t n, std::uint64_t key) {
  const RandomStream random(key);
  Matrix<double> q(n, n);
  for (index_t i = 0; i < n * n; ++i) q.data()[i] = random.normal(static_cast<std::uint64_t>(i));
  const int order = static_cast<int>(n);
  std::vector<double> tau(at(n));
  const int work_size = 64 * order;
  std::vector<double> work(at(work_size));
  int info = 0;
  dgeqrf_(&order, &order, q.data(), &order, tau.data(), work.data(), &work_size, &info);
  if (info != 0) fail("QR factorisation of a random {0} × {0} matrix failed ({1})", n, info);
  std::vector<double> sign(at(n));
  for (index_t i = 0; i < n; ++i) sign[at(i)] = q(i, i) < 0 ? -1.0 : 1.0;
  dorgqr_(&order, &order, &order, q.data(), &order, tau.data(), work.data(), &work_size, &info);
  if (info != 0) fail("forming a random {0} × {0} orthogonal matrix failed ({1})", n, info);
  for (index_t i = 0; i < n; ++i) {  // LAPACK's column i is our row i: as Haar as its transpose
    for (index_t j = 0; j < n; ++j) q(i, j) *= sign[at(i)];
  }
  return q;
}

Matrix<float> to_single(const Matrix<double>& x) {
  Matrix<float> y(x.rows(), x.cols());
  std::transform(x.data(), x.data() + x.size(), y.data(),
                 [](double value) { return static_cast<float>(value); });
  return y;
}

}  // namespace quip
