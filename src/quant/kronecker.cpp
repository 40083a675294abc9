#include "quip/quant/kronecker.hpp"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "quip/core/error.hpp"
#include "quip/core/rng.hpp"
#include "quip/linalg/ordered_gemm.hpp"

// LAPACK, column-major.
extern "C" {
void dgeqrf_(const int* m, const int* n, double* a, const int* lda, double* tau, double* work,
             const int* lwork, int* info);
void dorgqr_(const int* m, const int* n, const int* k, double* a, const int* lda, const double* tau,
             double* work, const int* lwork, int* info);
}

namespace quip {
namespace {

Matrix<float> to_single(const Matrix<double>& x) {
  Matrix<float> y(x.rows(), x.cols());
  std::transform(x.data(), x.data() + x.size(), y.data(),
                 [](double value) { return static_cast<float>(value); });
  return y;
}

/// Y = A ⊗ I times X: blocks of `inner` rows are mixed by `a` (or aᵀ), rows [first, last) of it.
template <typename T>
void mix_outer(const Matrix<T>& a, bool transposed, index_t first, index_t last, index_t width,
               const T* x, T* y) {
  const index_t p = a.rows();
  const StridedView<T> factor = transposed ? StridedView<T>{a.data() + first, 1, p}
                                           : StridedView<T>{a.data() + first * p, p, 1};
  std::fill_n(y, (last - first) * width, T{0});
  ordered_gemm<T>(last - first, width, p, factor, x, width, y, width);
}

/// Y = I ⊗ B times X for one block of q rows.
template <typename T>
void mix_inner(const Matrix<T>& b, bool transposed, index_t cols, const T* x, T* y) {
  const index_t q = b.rows();
  const StridedView<T> factor =
      transposed ? StridedView<T>{b.data(), 1, q} : StridedView<T>{b.data(), q, 1};
  std::fill_n(y, q * cols, T{0});
  ordered_gemm<T>(q, cols, q, factor, x, cols, y, cols);
}

template <typename T>
void gather_rows(MatrixView<T> x, const std::vector<index_t>& order, T* out) {
  for (index_t i = 0; i < x.rows; ++i) {
    std::copy_n(x.row(order[static_cast<std::size_t>(i)]), x.cols, out + i * x.cols);
  }
}

}  // namespace

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
  std::vector<double> tau(static_cast<std::size_t>(n));
  const int work_size = 64 * order;
  std::vector<double> work(static_cast<std::size_t>(work_size));
  int info = 0;
  dgeqrf_(&order, &order, q.data(), &order, tau.data(), work.data(), &work_size, &info);
  if (info != 0) fail("QR factorisation of a random {0} × {0} matrix failed ({1})", n, info);
  std::vector<double> sign(static_cast<std::size_t>(n));
  for (index_t i = 0; i < n; ++i) sign[static_cast<std::size_t>(i)] = q(i, i) < 0 ? -1.0 : 1.0;
  dorgqr_(&order, &order, &order, q.data(), &order, tau.data(), work.data(), &work_size, &info);
  if (info != 0) fail("forming a random {0} × {0} orthogonal matrix failed ({1})", n, info);
  for (index_t i = 0; i < n; ++i) {  // LAPACK's column i is our row i: as Haar as its transpose
    for (index_t j = 0; j < n; ++j) q(i, j) *= sign[static_cast<std::size_t>(i)];
  }
  return q;
}

KroneckerTransform KroneckerTransform::identity(index_t n) {
  KroneckerTransform transform;
  transform.n_ = n;
  return transform;
}

KroneckerTransform::KroneckerTransform(index_t n, std::uint64_t key, Rows rows)
    : n_(n), identity_(false), shape_(balanced_factors(n)) {
  left_ = random_orthogonal(shape_.p, derive_key(key, "", "left factor"));
  right_ = random_orthogonal(shape_.q, derive_key(key, "", "right factor"));
  left_single_ = to_single(left_);
  right_single_ = to_single(right_);
  gather_ = RandomStream(derive_key(key, "", "input permutation")).permutation(n);
  if (rows == Rows::permuted) {
    scatter_ = RandomStream(derive_key(key, "", "output permutation")).permutation(n);
  }
}

template <typename T>
const Matrix<T>& KroneckerTransform::left() const {
  if constexpr (std::is_same_v<T, float>) {
    return left_single_;
  } else {
    return left_;
  }
}

template <typename T>
const Matrix<T>& KroneckerTransform::right() const {
  if constexpr (std::is_same_v<T, float>) {
    return right_single_;
  } else {
    return right_;
  }
}

template <typename T>
void KroneckerTransform::apply(MatrixView<T> x, T* scratch) const {
  if (identity_) return;
  const index_t c = x.cols;
  const auto [p, q] = shape_;
  Buffer<T> mixed(n_ * c);
  gather_rows(x, gather_, scratch);                                 // P₂ X
  mix_outer(left<T>(), false, 0, p, q * c, scratch, mixed.data());  // (O₁ ⊗ I) …
  for (index_t block = 0; block < p; ++block) {                     // (I ⊗ O₂) …
    mix_inner(right<T>(), false, c, mixed.data() + block * q * c, scratch + block * q * c);
  }
  for (index_t i = 0; i < n_; ++i) {  // P₁ …
    const index_t to = scatter_.empty() ? i : scatter_[static_cast<std::size_t>(i)];
    std::copy_n(scratch + i * c, c, x.row(to));
  }
}

template <typename T>
void KroneckerTransform::apply_transposed(MatrixView<T> x, T* scratch) const {
  if (identity_) return;
  const index_t c = x.cols;
  const auto [p, q] = shape_;
  Buffer<T> mixed(n_ * c);
  for (index_t i = 0; i < n_; ++i) {  // P₁ᵀ X
    const index_t from = scatter_.empty() ? i : scatter_[static_cast<std::size_t>(i)];
    std::copy_n(x.row(from), c, scratch + i * c);
  }
  for (index_t block = 0; block < p; ++block) {  // (I ⊗ O₂ᵀ) …
    mix_inner(right<T>(), true, c, scratch + block * q * c, mixed.data() + block * q * c);
  }
  mix_outer(left<T>(), true, 0, p, q * c, mixed.data(), scratch);  // (O₁ᵀ ⊗ I) …
  for (index_t i = 0; i < n_; ++i) {                               // P₂ᵀ …
    std::copy_n(scratch + i * c, c, x.row(gather_[static_cast<std::size_t>(i)]));
  }
}

void KroneckerTransform::apply_rows(MatrixView<float> x, index_t first, MatrixView<float> out,
                                    float* scratch) const {
  const index_t c = x.cols;
  if (identity_) {
    for (index_t i = 0; i < out.rows; ++i) std::copy_n(x.row(first + i), c, out.row(i));
    return;
  }
  const index_t q = shape_.q;
  const index_t first_block = first / q;
  const index_t last_block = (first + out.rows + q - 1) / q;
  gather_rows(x, gather_, scratch);
  Buffer<float> mixed((last_block - first_block) * q * c);
  mix_outer(left_single_, false, first_block, last_block, q * c, scratch, mixed.data());
  for (index_t block = first_block; block < last_block; ++block) {
    mix_inner(right_single_, false, c, mixed.data() + (block - first_block) * q * c, scratch);
    for (index_t i = 0; i < q; ++i) {
      const index_t row = block * q + i - first;
      if (row >= 0 && row < out.rows) std::copy_n(scratch + i * c, c, out.row(row));
    }
  }
}

template void KroneckerTransform::apply<float>(MatrixView<float>, float*) const;
template void KroneckerTransform::apply<double>(MatrixView<double>, double*) const;
template void KroneckerTransform::apply_transposed<float>(MatrixView<float>, float*) const;
template void KroneckerTransform::apply_transposed<double>(MatrixView<double>, double*) const;

}  // namespace quip
