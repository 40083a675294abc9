// Q = P₁ (O₁ ⊗ O₂) P₂ (QuIP, §4.1): two small random orthogonal factors and two random
// permutations. Applying it to n × c costs 2·n·c·(p+q) flops, n = p·q.
#include <vector>

#include "small_factor.hpp"
#include "transforms.hpp"

#include "quip/core/rng.hpp"

namespace quip {
namespace {

class Kronecker final : public TransformOf<Kronecker> {
 public:
  Kronecker(index_t n, std::uint64_t key, Side side, Permute permute)
      : TransformOf(n), shape_(balanced_factors(n)) {
    require_small_factor(n, shape_.q, "kronecker", "none");
    left_ = SmallFactor(random_orthogonal(shape_.p, derive_key(key, "", "left factor")));
    right_ = SmallFactor(random_orthogonal(shape_.q, derive_key(key, "", "right factor")));
    if (permute == Permute::no) return;
    gather_ = RandomStream(derive_key(key, "", "input permutation")).permutation(n);
    if (side == Side::input) {
      scatter_ = RandomStream(derive_key(key, "", "output permutation")).permutation(n);
    }
  }

  template <typename T>
  void multiply(MatrixView<T> x, T* scratch) const {
    const index_t c = x.cols;
    const auto [p, q] = shape_;
    const Buffer<T> mixed(size() * c);
    gather_rows(x, gather_, scratch);                                         // P₂ X
    left_.multiply(false, 0, p, q * c, scratch, q * c, mixed.data(), q * c);  // (O₁ ⊗ I) …
    for (index_t row = 0; row < size(); row += q) {                           // (I ⊗ O₂) …
      right_.multiply(false, 0, q, c, mixed.data() + row * c, c, scratch + row * c, c);
    }
    scatter_rows(scratch, scatter_, x);  // P₁ …
  }

  template <typename T>
  void multiply_transposed(MatrixView<T> x, T* scratch) const {
    const index_t c = x.cols;
    const auto [p, q] = shape_;
    const Buffer<T> mixed(size() * c);
    gather_rows(x, scatter_, scratch);               // P₁ᵀ X
    for (index_t row = 0; row < size(); row += q) {  // (I ⊗ O₂ᵀ) …
      right_.multiply(true, 0, q, c, scratch + row * c, c, mixed.data() + row * c, c);
    }
    left_.multiply(true, 0, p, q * c, mixed.data(), q * c, scratch, q * c);  // (O₁ᵀ ⊗ I) …
    scatter_rows(scratch, gather_, x);                                       // P₂ᵀ …
  }

  void apply_rows(MatrixView<float> x, index_t first, MatrixView<float> out,
                  float* scratch) const override {
    const index_t c = x.cols;
    const index_t q = shape_.q;
    const index_t first_block = first / q;
    const index_t last_block = (first + out.rows + q - 1) / q;
    const Buffer<float> mixed((last_block - first_block) * q * c);
    gather_rows(x, gather_, scratch);
    left_.multiply(false, first_block, last_block, q * c, scratch, q * c, mixed.data(), q * c);
    for (index_t block = first_block; block < last_block; ++block) {
      const index_t begin = std::max(first, block * q);
      const index_t end = std::min(first + out.rows, (block + 1) * q);
      right_.multiply(false, begin - block * q, end - block * q, c,
                      mixed.data() + (block - first_block) * q * c, c, out.row(begin - first),
                      out.ld);
    }
  }

  [[nodiscard]] std::vector<TransformStep> steps() const override {
    const auto [p, q] = shape_;
    std::vector<TransformStep> steps;
    add_gather(gather_, steps);
    steps.push_back({.kind = TransformStep::Kind::multiply,
                     .stride = q,
                     .factors = {left_.view()},
                     .width = q});
    steps.push_back({.kind = TransformStep::Kind::multiply,
                     .factors = {right_.view()},
                     .batches = p,
                     .batch_stride = q});
    add_scatter(scatter_, steps);
    return steps;
  }

 private:
  Factorization shape_;
  SmallFactor left_;
  SmallFactor right_;
  std::vector<index_t> gather_;   ///< P₂: row i takes input row gather_[i]; empty: none
  std::vector<index_t> scatter_;  ///< P₁: row i goes to output row scatter_[i]; empty: none
};

}  // namespace

std::unique_ptr<const Transform> make_kronecker(index_t n, std::uint64_t key, Side side,
                                                Permute permute) {
  return std::make_unique<Kronecker>(n, key, side, permute);
}

}  // namespace quip
