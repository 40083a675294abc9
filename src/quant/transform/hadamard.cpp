// Q = (H ⊗ M)·diag(±1)/√n: random signs, a fast Walsh–Hadamard transform H over 2^k and a fixed
// Hadamard matrix M of order b, n = 2^k·b. Where b has none, M is random orthogonal.
// n·c·(k + 2b) flops on n × c.
#include "quip/quant/transform/hadamard.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "transforms.hpp"
#include "walsh_hadamard.hpp"

#include "quip/core/rng.hpp"

namespace quip {
namespace {

/// Prefetches rows that are needed next.
template <typename T>
void prefetch(MatrixView<T> x) {
  constexpr index_t line = 64 / static_cast<index_t>(sizeof(T));
  for (index_t i = 0; i < x.rows; ++i) {
    for (index_t j = 0; j < x.cols; j += line) __builtin_prefetch(&x(i, j), 1, 2);
  }
}

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
    const index_t energy = shape_.paley ? n : shape_.walsh;  // ‖row‖² of H ⊗ M
    const double scale = 1.0 / std::sqrt(static_cast<double>(energy));
    signs_ = hadamard_signs(TransformKind::hadamard, n, key);
    for (double& sign : signs_) sign *= scale;
  }

  template <typename T>
  void multiply(bool transposed, MatrixView<T> x, T* scratch) const {
    const MatrixView<T> slab(scratch, size(), x.cols);
    if (transposed) return multiply_transposed(x, slab);
    spread(0, shape_.walsh, x, signs_.data(), slab, Wanted<T>{0, x});
  }

  void apply_rows(MatrixView<float> x, index_t first, MatrixView<float> out,
                  float* /*scratch*/) const override {
    spread(0, shape_.walsh, x, signs_.data(), x, Wanted<float>{first, out});
  }

  [[nodiscard]] std::vector<TransformStep> steps() const override {
    std::vector<TransformStep> steps{
        {.kind = TransformStep::Kind::scale, .scale = signs_},
        {.kind = TransformStep::Kind::walsh, .size = shape_.walsh, .stride = shape_.order}};
    if (shape_.order > 1) {
      steps.push_back({.kind = TransformStep::Kind::multiply,
                       .factors = {factor_.view()},
                       .batches = shape_.walsh,
                       .batch_stride = shape_.order});
    }
    return steps;
  }

 private:
  /// The rows [first, first + rows.rows) of a product, and their place.
  template <typename T>
  struct Wanted {
    index_t first;
    MatrixView<T> rows;

    [[nodiscard]] index_t last() const { return first + rows.rows; }
    [[nodiscard]] T* row(index_t i) const { return rows.row(i - first); }
    /// Returns the place of the block after the one at row i.
    [[nodiscard]] MatrixView<T> following(index_t i, index_t b) const {
      const index_t next = i + b - first;
      if (next < 0 || next + b > rows.rows) return {};
      return rows.middle_rows(next, b);
    }
  };

  template <typename T>
  void multiply_transposed(MatrixView<T> x, MatrixView<T> slab) const {
    const index_t b = shape_.order;
    const index_t radix = walsh_radix(shape_.walsh);
    const index_t part = size() / radix;
    const bool only = radix == shape_.walsh;
    const MatrixView<T> to = only ? x : slab;
    const double* after = only ? signs_.data() : nullptr;
    if (b == 1) {
      pass(radix, part, part, x, to, nullptr, after);
    } else {
      for (index_t row = 0; row < part; row += b) {  // the blocks that meet, while in the cache
        for (index_t r = 0; r < radix; ++r) {
          const index_t first = r * part + row;
          const index_t next = r + 1 < radix ? first + part : row + b;
          prefetch(x.middle_rows(next, next < size() ? b : 0));
          factor_.multiply(true, 0, b, x.cols, x.row(first), x.ld, slab.row(first), slab.ld);
        }
        pass(radix, b, part, slab.middle_rows(row, 0), to.middle_rows(row, 0), nullptr, after);
      }
    }
    for (index_t r = 0; !only && r < radix; ++r) gather(r * part, shape_.walsh / radix, slab, x);
  }

  /// Takes `rows` rows from each of `radix` streams that are `part` rows apart.
  template <typename T>
  static void pass(index_t radix, index_t rows, index_t part, MatrixView<T> in, MatrixView<T> out,
                   const double* before, const double* after) {
    run_pass({radix, rows, in.cols, in.data, in.ld, part * in.ld, out.data, out.ld, part * out.ld,
              before, after});
  }

  /// Computes (H ⊗ M) diag(before) X for `order`·b rows from `first` on: levels from X into the
  /// slab and on in it, depth first so that each level of the cache sees its part once; M takes the
  /// blocks out of it. Parts without a wanted row are left out.
  template <typename T>
  void spread(index_t first, index_t order, MatrixView<T> x, const double* before,
              MatrixView<T> slab, const Wanted<T>& wanted) const {
    const index_t radix = walsh_radix(order);
    const index_t rest = order / radix;
    const index_t part = rest * shape_.order;
    const MatrixView<T> in = x.middle_rows(first, 0);
    if (part == 1 && first >= wanted.first && first + radix <= wanted.last()) {
      const MatrixView<T> out(wanted.row(first), 0, x.cols, wanted.rows.ld);
      return pass(radix, part, part, in, out, before, nullptr);
    }
    pass(radix, part, part, in, slab.middle_rows(first, 0), before, nullptr);
    for (index_t row = first; row < first + radix * part; row += part) {
      if (row >= wanted.last() || row + part <= wanted.first) continue;
      if (rest == 1) {
        prefetch(wanted.following(row, shape_.order));
        mix(row, slab, wanted);
      } else {
        spread<T>(row, rest, slab, nullptr, slab, wanted);
      }
    }
  }

  /// Computes the wanted rows of M times the block at row `first`.
  template <typename T>
  void mix(index_t first, MatrixView<T> slab, const Wanted<T>& wanted) const {
    const index_t b = shape_.order;
    const index_t begin = std::max(first, wanted.first);
    const index_t end = std::min(first + b, wanted.last());
    if (b == 1) {
      std::copy_n(slab.row(first), slab.cols, wanted.row(first));
    } else {
      factor_.multiply(false, begin - first, end - first, slab.cols, slab.row(first), slab.ld,
                       wanted.row(begin), wanted.rows.ld);
    }
  }

  /// Puts diag(signs) (H ⊗ I) of `order`·b slab rows from `first` on into X, depth first.
  template <typename T>
  void gather(index_t first, index_t order, MatrixView<T> slab, MatrixView<T> x) const {
    const index_t radix = walsh_radix(order);
    const index_t part = order / radix * shape_.order;
    const bool last = radix == order;
    const MatrixView<T> in = slab.middle_rows(first, 0);
    const MatrixView<T> out = last ? x.middle_rows(first, 0) : in;
    pass(radix, part, part, in, out, nullptr, last ? signs_.data() + first : nullptr);
    for (index_t r = 0; !last && r < radix; ++r) {
      gather(first + r * part, order / radix, slab, x);
    }
  }

  HadamardShape shape_;
  SmallFactor factor_;
  std::vector<double> signs_;  ///< ±1/√n, or ±2^(−k/2) where M is orthogonal
};

}  // namespace

std::vector<double> hadamard_signs(TransformKind kind, index_t n, std::uint64_t key) {
  const char* purpose = kind == TransformKind::hadamard ? "signs" : "signs of blocks";
  const RandomStream random(derive_key(key, "", purpose));
  std::vector<double> signs(at(n));
  for (index_t i = 0; i < n; ++i) {
    signs[at(i)] = (random.bits(static_cast<std::uint64_t>(i)) & 1U) != 0 ? -1.0 : 1.0;
  }
  return signs;
}

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
