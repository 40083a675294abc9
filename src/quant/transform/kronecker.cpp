// Q = P₁ (O₁ ⊗ O₂) P₂ (QuIP, §4.1): two small random orthogonal factors and two random
// permutations. Applying it to n × c costs 2·n·c·(p+q) flops, n = p·q.
//
// The blocked kind is Q = P₁ B₂ B₁ P₂: B₁ mixes the p rows that are q apart, with a p × p factor of
// its own for each of the q sets; B₂ mixes q neighbours, with one of its own for each of the p
// sets. The flops are the same, the random elements n·(p+q).
#include <algorithm>
#include <string>
#include <vector>

#include "transforms.hpp"

#include "quip/core/rng.hpp"

namespace quip {
namespace {

/// Returns `count` independent random orthogonal matrices of one order.
std::vector<SmallFactor> random_factors(index_t count, index_t order, std::uint64_t key) {
  std::vector<SmallFactor> factors(at(count));
#pragma omp parallel for schedule(dynamic)
  for (index_t i = 0; i < count; ++i) {
    factors[at(i)] = SmallFactor(random_orthogonal(order, derive_key(key, "", std::to_string(i))));
  }
  return factors;
}

/// Copies row order[i] of X to row i of `out`.
template <typename T>
void gather_rows(MatrixView<T> x, const std::vector<index_t>& order, T* out) {
  for (index_t i = 0; i < x.rows; ++i) {
    std::copy_n(x.row(order.empty() ? i : order[at(i)]), x.cols, out + i * x.cols);
  }
}

/// Copies row i of `in` to row order[i] of X.
template <typename T>
void scatter_rows(const T* in, const std::vector<index_t>& order, MatrixView<T> x) {
  for (index_t i = 0; i < x.rows; ++i) {
    std::copy_n(in + i * x.cols, x.cols, x.row(order.empty() ? i : order[at(i)]));
  }
}

std::vector<MatrixView<const double>> views_of(const std::vector<SmallFactor>& factors) {
  std::vector<MatrixView<const double>> views;
  for (const SmallFactor& factor : factors) views.push_back(factor.view());
  return views;
}

class Kronecker final : public TransformOf<Kronecker> {
 public:
  Kronecker(TransformKind kind, index_t n, std::uint64_t key, Side side)
      : TransformOf(n), shape_(balanced_factors(n)) {
    const auto [p, q] = shape_;
    require_small_factor(n, q, to_string(kind), "none");
    if (kind == TransformKind::kronecker_blocked) {
      outer_ = random_factors(q, p, derive_key(key, "", "left factors"));
      inner_ = random_factors(p, q, derive_key(key, "", "right factors"));
    } else {
      outer_.emplace_back(random_orthogonal(p, derive_key(key, "", "left factor")));
      inner_.emplace_back(random_orthogonal(q, derive_key(key, "", "right factor")));
    }
    if (kind == TransformKind::kronecker_nopermute) return;
    gather_ = RandomStream(derive_key(key, "", "input permutation")).permutation(n);
    if (side == Side::input) {
      scatter_ = RandomStream(derive_key(key, "", "output permutation")).permutation(n);
    }
  }

  template <typename T>
  void multiply(bool transposed, MatrixView<T> x, T* scratch) const {
    const index_t c = x.cols;
    const Buffer<T> mixed(size() * c);
    gather_rows(x, transposed ? scatter_ : gather_, scratch);
    if (transposed) {
      mix_inner(true, c, scratch, mixed.data());
      mix_outer(true, 0, shape_.p, c, mixed.data(), scratch);
    } else {
      mix_outer(false, 0, shape_.p, c, scratch, mixed.data());
      mix_inner(false, c, mixed.data(), scratch);
    }
    scatter_rows(scratch, transposed ? gather_ : scatter_, x);
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
      inner(block).multiply(false, begin - block * q, end - block * q, c,
                            mixed.data() + (block - first_block) * q * c, c, out.row(begin - first),
                            out.ld);
    }
  }

  [[nodiscard]] std::vector<TransformStep> steps() const override {
    const auto [p, q] = shape_;
    const index_t sets = std::ssize(outer_);
    std::vector<TransformStep> steps;
    if (!gather_.empty()) steps.push_back({.kind = TransformStep::Kind::gather, .order = gather_});
    steps.push_back({.kind = TransformStep::Kind::multiply,
                     .stride = q,
                     .factors = views_of(outer_),
                     .batches = sets,
                     .batch_stride = q / sets,
                     .width = q / sets});
    steps.push_back({.kind = TransformStep::Kind::multiply,
                     .factors = views_of(inner_),
                     .batches = p,
                     .batch_stride = q});
    if (!scatter_.empty()) {
      steps.push_back({.kind = TransformStep::Kind::scatter, .order = scatter_});
    }
    return steps;
  }

 private:
  [[nodiscard]] const SmallFactor& inner(index_t block) const {
    return inner_[inner_.size() == 1 ? 0 : at(block)];
  }

  /// Multiplies with (O₁ ⊗ I) or B₁; blocks [first, last) of q rows of the product.
  template <typename T>
  void mix_outer(bool transposed, index_t first, index_t last, index_t c, const T* x, T* y) const {
    const index_t row = shape_.q * c;
    const index_t width = row / std::ssize(outer_);
    for (index_t j = 0; j < std::ssize(outer_); ++j) {
      outer_[at(j)].multiply(transposed, first, last, width, x + j * width, row, y + j * width,
                             row);
    }
  }

  /// Multiplies with (I ⊗ O₂) or B₂.
  template <typename T>
  void mix_inner(bool transposed, index_t c, const T* x, T* y) const {
    const auto [p, q] = shape_;
    for (index_t block = 0; block < p; ++block) {
      inner(block).multiply(transposed, 0, q, c, x + block * q * c, c, y + block * q * c, c);
    }
  }

  Factorization shape_;
  std::vector<SmallFactor> outer_;  ///< O₁, or those of B₁; their order is p
  std::vector<SmallFactor> inner_;  ///< O₂, or those of B₂; their order is q
  std::vector<index_t> gather_;     ///< P₂: row i takes input row gather_[i]; empty: none
  std::vector<index_t> scatter_;    ///< P₁: row i goes to output row scatter_[i]; empty: none
};

}  // namespace

std::unique_ptr<const Transform> make_kronecker(TransformKind kind, index_t n, std::uint64_t key,
                                                Side side) {
  return std::make_unique<Kronecker>(kind, n, key, side);
}

}  // namespace quip
