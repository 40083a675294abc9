// The makers behind make_transform, one file per kind, and the common part of the kinds.
#pragma once

#include "quip/core/error.hpp"
#include "quip/quant/transform/transform.hpp"

namespace quip {

enum class Permute { no, yes };

std::unique_ptr<const Transform> make_kronecker(index_t n, std::uint64_t key, Side side,
                                                Permute permute);
std::unique_ptr<const Transform> make_kronecker_blocked(index_t n, std::uint64_t key, Side side);
std::unique_ptr<const Transform> make_hadamard(index_t n, std::uint64_t key);
std::unique_ptr<const Transform> make_dense(index_t n, std::uint64_t key);

/// Limits the order of random orthogonal matrices: QR costs 8/3·order³ flops.
inline void require_small_factor(index_t n, index_t order, const char* transform,
                                 const char* instead) {
  constexpr index_t most = 8192;
  if (order <= most) return;
  fail(
      "--transform {}: {} channels need a random orthogonal matrix of order {}, more than {}; "
      "choose --transform {}",
      transform, n, order, most, instead);
}

/// Both element types from one template: Kind has multiply<T>(x, scratch) for Q X and
/// multiply_transposed<T>(x, scratch).
template <typename Kind>
class TransformOf : public Transform {
 public:
  using Transform::Transform;
  void apply(MatrixView<float> x, float* scratch) const final { self().multiply(x, scratch); }
  void apply(MatrixView<double> x, double* scratch) const final { self().multiply(x, scratch); }
  void apply_transposed(MatrixView<float> x, float* scratch) const final {
    self().multiply_transposed(x, scratch);
  }
  void apply_transposed(MatrixView<double> x, double* scratch) const final {
    self().multiply_transposed(x, scratch);
  }

 private:
  [[nodiscard]] const Kind& self() const { return static_cast<const Kind&>(*this); }
};

}  // namespace quip
