// Q = (I ⊗ H₁₂₈)·diag(±1): random signs, and a fast Walsh–Hadamard transform of every 128 channels.
// 7·n·c flops on n × c.
#include <algorithm>
#include <cmath>
#include <vector>

#include "transforms.hpp"
#include "walsh_hadamard.hpp"

#include "quip/quant/transform/hadamard.hpp"

namespace quip {
namespace {

class Hadamard128 final : public TransformOf<Hadamard128> {
 public:
  Hadamard128(index_t n, std::uint64_t key)
      : TransformOf(n), signs_(hadamard_signs(TransformKind::hadamard_128, n, key)) {
    const double scale = 1.0 / std::sqrt(static_cast<double>(hadamard_block));
    for (double& sign : signs_) sign *= scale;
  }

  template <typename T>
  void multiply(bool transposed, MatrixView<T> x, T* scratch) const {
    for (index_t row = 0; row < size(); row += hadamard_block) {
      const MatrixView<T> block = x.middle_rows(row, hadamard_block);
      const double* signs = signs_.data() + row;
      transform(block, scratch, block, transposed ? nullptr : signs, transposed ? signs : nullptr);
    }
  }

  void apply_rows(MatrixView<float> x, index_t first, MatrixView<float> out,
                  float* scratch) const override {
    const index_t last = first + out.rows;
    for (index_t row = first / hadamard_block * hadamard_block; row < last; row += hadamard_block) {
      const MatrixView<float> block = x.middle_rows(row, hadamard_block);
      const double* signs = signs_.data() + row;
      if (row >= first && row + hadamard_block <= last) {
        transform(block, scratch, out.middle_rows(row - first, hadamard_block), signs, nullptr);
        continue;
      }
      transform(block, scratch, block, signs, nullptr);
      for (index_t i = std::max(first, row); i < std::min(last, row + hadamard_block); ++i) {
        std::copy_n(x.row(i), x.cols, out.row(i - first));
      }
    }
  }

  [[nodiscard]] std::vector<TransformStep> steps() const override {
    return {{.kind = TransformStep::Kind::scale, .scale = signs_},
            {.kind = TransformStep::Kind::walsh, .size = hadamard_block}};
  }

 private:
  /// Computes diag(after) H diag(before) X for a block X in levels 2·8·8, so that each pass finds
  /// the factors of its rows in their order; half a block at a time stays in the first-level cache.
  template <typename T>
  static void transform(MatrixView<T> x, T* slab, MatrixView<T> out, const double* before,
                        const double* after) {
    const index_t c = x.cols;
    constexpr index_t half = hadamard_block / 2;
    run_pass({2, half, c, x.data, x.ld, half * x.ld, slab, c, half * c, before, nullptr});
    for (index_t i = 0; i < hadamard_block; i += 8) {
      T* const rows = slab + i * c;
      if (i % half == 0) run_pass({8, 8, c, rows, c, 8 * c, rows, c, 8 * c, nullptr, nullptr});
      run_pass({8, 1, c, rows, c, c, out.row(i), out.ld, out.ld, nullptr,
                after == nullptr ? nullptr : after + i});
    }
  }

  std::vector<double> signs_;  ///< ±1/√128
};

}  // namespace

std::unique_ptr<const Transform> make_hadamard_128(index_t n, std::uint64_t key) {
  if (n % hadamard_block != 0) {
    fail(
        "--transform hadamard-128: {} channels are not a multiple of {}; choose --transform "
        "hadamard",
        n, hadamard_block);
  }
  return std::make_unique<Hadamard128>(n, key);
}

}  // namespace quip
