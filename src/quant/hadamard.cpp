// Q = (H ⊗ M)·diag(±1)/√n: random signs, a fast Walsh–Hadamard transform H over 2^k and a fixed
// Hadamard matrix M of order b, n = 2^k·b. Where b has none, M is random orthogonal.
// n·c·(k + 2b) flops on n × c.
#include "quip/quant/hadamard.hpp"

#include <cmath>
#include <vector>

#include "small_factor.hpp"
#include "transforms.hpp"
#include "walsh_hadamard.hpp"

#include "quip/core/rng.hpp"

namespace quip {
namespace {

class Hadamard final : public TransformOf<Hadamard> {
 public:
  Hadamard(index_t n, std::uint64_t key) : TransformOf(n), shape_(hadamard_shape(n)) {
    const index_t b = shape_.order;
    require_small_factor(n, b, "hadamard", "kronecker");
    if (shape_.paley) {
      factor_ = SmallFactor(*paley_hadamard(b));
    } else if (b > 1) {
      factor_ = SmallFactor(random_orthogonal(b, derive_key(key, "", "odd factor")));
    }
    const index_t energy = shape_.paley ? n : shape_.walsh;  // of a row of H ⊗ M
    const double scale = 1.0 / std::sqrt(static_cast<double>(energy));
    const RandomStream random(derive_key(key, "", "signs"));
    for (index_t i = 0; i < n; ++i) {
      signs_.push_back((random.bits(static_cast<std::uint64_t>(i)) & 1U) != 0 ? -scale : scale);
    }
  }

  template <typename T>
  void multiply(MatrixView<T> x, T* scratch) const {
    scale_rows(x.data, signs_.data(), size(), x.cols);
    walsh_hadamard(x.data, shape_.walsh, shape_.order * x.cols);
    mix_factor(false, x, scratch);
  }

  template <typename T>
  void multiply_transposed(MatrixView<T> x, T* scratch) const {
    mix_factor(true, x, scratch);
    walsh_hadamard(x.data, shape_.walsh, shape_.order * x.cols);
    scale_rows(x.data, signs_.data(), size(), x.cols);
  }

  void apply_rows(MatrixView<float> x, index_t first, MatrixView<float> out,
                  float* /*scratch*/) const override {
    const index_t c = x.cols;
    const index_t b = shape_.order;
    const index_t last = first + out.rows;
    scale_rows(x.data, signs_.data(), size(), c);
    pruned(x.data, shape_.walsh, b * c, first / b, (last + b - 1) / b);
    for (index_t row = first; row < last;) {
      const index_t block = row / b;
      const index_t end = std::min(last, (block + 1) * b);
      if (b == 1) {
        std::copy_n(x.row(row), c, out.row(row - first));
      } else {
        factor_.multiply(false, row - block * b, end - block * b, c, x.row(block * b), c,
                         out.row(row - first), out.ld);
      }
      row = end;
    }
  }

 private:
  /// I ⊗ M.
  template <typename T>
  void mix_factor(bool transposed, MatrixView<T> x, T* scratch) const {
    const index_t b = shape_.order;
    const index_t c = x.cols;
    if (b == 1) return;
    for (index_t row = 0; row < size(); row += b) {
      factor_.multiply(transposed, 0, b, c, x.row(row), c, scratch, c);
      std::copy_n(scratch, b * c, x.row(row));
    }
  }

  /// Rows [first, last) of H X, X [order × length]; the other rows of X lose their meaning. The
  /// levels are those of walsh_hadamard, without the halves that no wanted row needs.
  static void pruned(float* x, index_t order, index_t length, index_t first, index_t last) {
    if (first == 0 && last == order) return walsh_hadamard(x, order, length);
    const index_t half = order / 2;
    const index_t part = half * length;
    if (last <= half) {
      walsh_sum(x, part);
    } else if (first >= half) {
      walsh_difference(x, part);
    } else {
      walsh_butterfly(x, part);
    }
    if (first < half) pruned(x, half, length, first, std::min(last, half));
    if (last > half) pruned(x + part, half, length, std::max(first, half) - half, last - half);
  }

  HadamardShape shape_;
  SmallFactor factor_;
  std::vector<double> signs_;  ///< ±1/√n, or ±2^(−k/2) where M is orthogonal
};

}  // namespace

HadamardShape hadamard_shape(index_t n) {
  index_t odd = n;
  while (odd % 2 == 0) odd /= 2;
  if (odd == 1) return {n, 1, false};
  for (index_t b = 4 * odd; b <= std::min(n, HadamardShape::most_paley_order); b *= 2) {
    if (n % b == 0 && paley_hadamard(b)) return {n / b, b, true};
  }
  return {n / odd, odd, false};
}

std::unique_ptr<const Transform> make_hadamard(index_t n, std::uint64_t key) {
  return std::make_unique<Hadamard>(n, key);
}

}  // namespace quip
