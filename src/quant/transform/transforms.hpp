// The makers behind make_transform, and what the kinds have in common.
#pragma once

#include <string>
#include <type_traits>
#include <utility>

#include "quip/core/error.hpp"
#include "quip/linalg/ordered_gemm.hpp"
#include "quip/quant/transform/random_orthogonal.hpp"
#include "quip/quant/transform/transform.hpp"

namespace quip {

/// Makes the three kinds of Kronecker products.
std::unique_ptr<const Transform> make_kronecker(TransformKind kind, index_t n, std::uint64_t key,
                                                Side side);
std::unique_ptr<const Transform> make_hadamard(index_t n, std::uint64_t key);
std::unique_ptr<const Transform> make_hadamard_128(index_t n, std::uint64_t key);
std::unique_ptr<const Transform> make_dense(index_t n, std::uint64_t key);

/// Limits the order of random orthogonal matrices: QR costs 8/3·order³ flops.
inline void require_small_factor(index_t n, index_t order, const std::string& transform,
                                 const char* instead) {
  constexpr index_t most = 8192;
  if (order <= most) return;
  fail(
      "--transform {}: {} channels need a random orthogonal matrix of order {}, more than {}; "
      "choose --transform {}",
      transform, n, order, most, instead);
}

/// A small matrix in both precisions, applied to slabs with the bits of ordered_gemm.
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

/// Makes both element types of one template: Kind has multiply<T>(transposed, x, scratch) for
/// X ← Q X or, if `transposed`, X ← Qᵀ X.
template <typename Kind>
class TransformOf : public Transform {
 public:
  using Transform::Transform;
  void apply(MatrixView<float> x, float* scratch) const final {
    self().multiply(false, x, scratch);
  }
  void apply(MatrixView<double> x, double* scratch) const final {
    self().multiply(false, x, scratch);
  }
  void apply_transposed(MatrixView<float> x, float* scratch) const final {
    self().multiply(true, x, scratch);
  }
  void apply_transposed(MatrixView<double> x, double* scratch) const final {
    self().multiply(true, x, scratch);
  }

 private:
  [[nodiscard]] const Kind& self() const { return static_cast<const Kind&>(*this); }
};

}  // namespace quip
