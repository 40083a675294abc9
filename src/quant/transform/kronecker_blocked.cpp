// Q = P₁ B₂ B₁ P₂ with n = p·q: B₁ mixes the p rows that are q apart, with a random orthogonal p ×
// p matrix of its own for each of the q sets; B₂ mixes q neighbours, with a matrix of its own for
// each of the p sets. Flops as for the plain Kronecker product; n·(p+q) random elements.
#include <string>
#include <vector>

#include "small_factor.hpp"
#include "transforms.hpp"

#include "quip/core/rng.hpp"

namespace quip {
namespace {

/// Returns `count` independent random orthogonal matrices of one order.
std::vector<SmallFactor> random_factors(index_t count, index_t order, std::uint64_t key) {
  std::vector<SmallFactor> factors(static_cast<std::size_t>(count));
#pragma omp parallel for schedule(dynamic)
  for (index_t i = 0; i < count; ++i) {
    factors[static_cast<std::size_t>(i)] =
        SmallFactor(random_orthogonal(order, derive_key(key, "", std::to_string(i))));
  }
  return factors;
}

class KroneckerBlocked final : public TransformOf<KroneckerBlocked> {
 public:
  KroneckerBlocked(index_t n, std::uint64_t key, Side side)
      : TransformOf(n), shape_(balanced_factors(n)) {
    require_small_factor(n, shape_.q, "kronecker-blocked", "none");
    outer_ = random_factors(shape_.q, shape_.p, derive_key(key, "", "left factors"));
    inner_ = random_factors(shape_.p, shape_.q, derive_key(key, "", "right factors"));
    gather_ = RandomStream(derive_key(key, "", "input permutation")).permutation(n);
    if (side == Side::input) {
      scatter_ = RandomStream(derive_key(key, "", "output permutation")).permutation(n);
    }
  }

  template <typename T>
  void multiply(MatrixView<T> x, T* scratch) const {
    const Buffer<T> mixed(size() * x.cols);
    gather_rows(x, gather_, scratch);
    mix_outer(false, 0, shape_.p, x.cols, scratch, mixed.data());
    mix_inner(false, x.cols, mixed.data(), scratch);
    scatter_rows(scratch, scatter_, x);
  }

  template <typename T>
  void multiply_transposed(MatrixView<T> x, T* scratch) const {
    const Buffer<T> mixed(size() * x.cols);
    gather_rows(x, scatter_, scratch);
    mix_inner(true, x.cols, scratch, mixed.data());
    mix_outer(true, 0, shape_.p, x.cols, mixed.data(), scratch);
    scatter_rows(scratch, gather_, x);
  }

  void apply_rows(MatrixView<float> x, index_t first, MatrixView<float> out,
                  float* scratch) const override {
    const index_t c = x.cols;
    const index_t q = shape_.q;
    const index_t first_block = first / q;
    const index_t last_block = (first + out.rows + q - 1) / q;
    const Buffer<float> mixed((last_block - first_block) * q * c);
    gather_rows(x, gather_, scratch);
    mix_outer(false, first_block, last_block, c, scratch, mixed.data());
    for (index_t block = first_block; block < last_block; ++block) {
      const index_t begin = std::max(first, block * q);
      const index_t end = std::min(first + out.rows, (block + 1) * q);
      inner_[static_cast<std::size_t>(block)].multiply(false, begin - block * q, end - block * q, c,
                                                       mixed.data() + (block - first_block) * q * c,
                                                       c, out.row(begin - first), out.ld);
    }
  }

  [[nodiscard]] std::vector<TransformStep> steps() const override {
    const auto [p, q] = shape_;
    TransformStep outer{
        .kind = TransformStep::Kind::multiply, .stride = q, .batches = q, .batch_stride = 1};
    for (const SmallFactor& factor : outer_) outer.factors.push_back(factor.view());
    TransformStep inner{.kind = TransformStep::Kind::multiply, .batches = p, .batch_stride = q};
    for (const SmallFactor& factor : inner_) inner.factors.push_back(factor.view());
    std::vector<TransformStep> steps;
    add_gather(gather_, steps);
    steps.push_back(std::move(outer));
    steps.push_back(std::move(inner));
    add_scatter(scatter_, steps);
    return steps;
  }

 private:
  /// Applies B₁ to blocks [first, last) of q output rows.
  template <typename T>
  void mix_outer(bool transposed, index_t first, index_t last, index_t c, const T* x, T* y) const {
    const index_t q = shape_.q;
    for (index_t j = 0; j < q; ++j) {
      outer_[static_cast<std::size_t>(j)].multiply(transposed, first, last, c, x + j * c, q * c,
                                                   y + j * c, q * c);
    }
  }

  template <typename T>
  void mix_inner(bool transposed, index_t c, const T* x, T* y) const {
    const auto [p, q] = shape_;
    for (index_t block = 0; block < p; ++block) {
      inner_[static_cast<std::size_t>(block)].multiply(transposed, 0, q, c, x + block * q * c, c,
                                                       y + block * q * c, c);
    }
  }

  Factorization shape_;
  std::vector<SmallFactor> outer_;  ///< q of order p
  std::vector<SmallFactor> inner_;  ///< p of order q
  std::vector<index_t> gather_;
  std::vector<index_t> scatter_;
};

}  // namespace

std::unique_ptr<const Transform> make_kronecker_blocked(index_t n, std::uint64_t key, Side side) {
  return std::make_unique<KroneckerBlocked>(n, key, side);
}

}  // namespace quip
