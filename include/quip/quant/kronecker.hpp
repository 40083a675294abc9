// Random orthogonal matrices with two Kronecker factors (QuIP, §4.1).
#pragma once

#include <cstdint>
#include <vector>

#include "quip/core/matrix.hpp"

namespace quip {

/// n = p·q with p and q as close as n's prime factors allow; p ≤ q.
struct Factorization {
  index_t p = 1;
  index_t q = 1;
};
[[nodiscard]] Factorization balanced_factors(index_t n);

/// A Haar-distributed random orthogonal n × n matrix: QR of a Gaussian matrix, with the signs
/// of R's diagonal made positive. Its bits depend on `key` and n.
[[nodiscard]] Matrix<double> random_orthogonal(index_t n, std::uint64_t key);

/// Q = P₁ (O₁ ⊗ O₂) P₂, or the identity. Never formed: applying it to n × c costs
/// 2·n·c·(p+q) flops. Every element of a result is computed in one fixed order, so parts of
/// it (columns, ranges of rows) may be computed anywhere.
class KroneckerTransform {
 public:
  enum class Rows { permuted, factor_order };

  /// The identity on n elements.
  static KroneckerTransform identity(index_t n);
  /// Rows::factor_order leaves out P₁: then a contiguous range of output rows needs only a
  /// range of O₁'s rows. For the output side of a layer, whose rows are rounded
  /// independently, P₁ would change nothing but the order of the rows.
  KroneckerTransform(index_t n, std::uint64_t key, Rows rows);

  [[nodiscard]] index_t size() const { return n_; }
  [[nodiscard]] bool is_identity() const { return identity_; }

  /// X ← Q X for X [n × c], c a slab of columns that fits the cache; `scratch` holds n·c.
  template <typename T>
  void apply(MatrixView<T> x, T* scratch) const;
  /// X ← Qᵀ X.
  template <typename T>
  void apply_transposed(MatrixView<T> x, T* scratch) const;

  /// Rows [first, first + out.rows) of Q X into `out`; X is overwritten. Needs
  /// Rows::factor_order; `scratch` holds n·c.
  void apply_rows(MatrixView<float> x, index_t first, MatrixView<float> out, float* scratch) const;

 private:
  KroneckerTransform() = default;
  template <typename T>
  const Matrix<T>& left() const;
  template <typename T>
  const Matrix<T>& right() const;

  index_t n_ = 0;
  bool identity_ = true;
  Factorization shape_;
  Matrix<double> left_;
  Matrix<double> right_;
  Matrix<float> left_single_;
  Matrix<float> right_single_;
  std::vector<index_t> gather_;   ///< P₂: row i takes input row gather_[i]
  std::vector<index_t> scatter_;  ///< P₁: row i goes to output row scatter_[i]; empty: none
};

}  // namespace quip
