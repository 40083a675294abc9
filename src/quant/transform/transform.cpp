#include "quip/quant/transform/transform.hpp"

#include <algorithm>
#include <bit>

#include "transforms.hpp"

#include "quip/quant/transform/hadamard.hpp"

namespace quip {
namespace {

double real(index_t n) { return static_cast<double>(n); }

/// Returns the levels of a Walsh–Hadamard transform of that order, an addition each.
int levels(index_t order) { return std::countr_zero(static_cast<std::uint64_t>(order)); }

class Identity final : public TransformOf<Identity> {
 public:
  using TransformOf::TransformOf;
  [[nodiscard]] bool is_identity() const override { return true; }
  template <typename T>
  void multiply(bool /*transposed*/, MatrixView<T> /*x*/, T* /*scratch*/) const {}
  void apply_rows(MatrixView<float> x, index_t first, MatrixView<float> out,
                  float* /*scratch*/) const override {
    for (index_t i = 0; i < out.rows; ++i) std::copy_n(x.row(first + i), x.cols, out.row(i));
  }
  [[nodiscard]] std::vector<TransformStep> steps() const override { return {}; }
};

}  // namespace

std::unique_ptr<const Transform> make_transform(TransformKind kind, index_t n, std::uint64_t key,
                                                Side side) {
  switch (kind) {
    case TransformKind::none:
      return std::make_unique<Identity>(n);
    case TransformKind::kronecker:
    case TransformKind::kronecker_blocked:
    case TransformKind::kronecker_nopermute:
      return make_kronecker(kind, n, key, side);
    case TransformKind::hadamard:
      return make_hadamard(n, key);
    case TransformKind::hadamard_128:
      return make_hadamard_128(n, key);
    case TransformKind::dense:
      return make_dense(n, key);
  }
  fail("a kind of transform without a maker");
}

LayerTransforms make_transforms(TransformKind kind, index_t rows, index_t cols,
                                std::uint64_t seed_u, std::uint64_t seed_v) {
  return {make_transform(kind, rows, seed_u, Side::output),
          make_transform(kind, cols, seed_v, Side::input)};
}

double transform_flops(TransformKind kind, index_t n) {
  switch (kind) {
    case TransformKind::none:
      return 0;
    case TransformKind::kronecker:
    case TransformKind::kronecker_blocked:
    case TransformKind::kronecker_nopermute: {
      const auto [p, q] = balanced_factors(n);
      return 2 * real(n) * real(p + q);
    }
    case TransformKind::hadamard: {
      const HadamardShape shape = hadamard_shape(n);
      return real(n) * (levels(shape.walsh) + (shape.order > 1 ? 2 * real(shape.order) : 0));
    }
    case TransformKind::hadamard_128:
      return real(n) * levels(hadamard_block);
    case TransformKind::dense:
      return 2 * real(n) * real(n);
  }
  return 0;
}

double transform_rows_flops(TransformKind kind, index_t layer_rows, index_t cols, index_t rows) {
  if (layer_rows == 0) return 0;
  // U acts on columns: these rows are their part of it.
  const double share = real(rows) / real(layer_rows);
  return real(cols) * transform_flops(kind, layer_rows) * share +
         real(rows) * transform_flops(kind, cols);
}

template <typename T>
void apply_in_slabs(const Transform& transform, MatrixView<T> x, bool transposed) {
  if (transform.is_identity()) return;
  constexpr index_t slab = 256 / static_cast<index_t>(sizeof(T));  // one row of it: 256 bytes
#pragma omp parallel
  {
    Buffer<T> scratch(x.rows * slab);
#pragma omp for schedule(dynamic)
    for (index_t first = 0; first < x.cols; first += slab) {
      const MatrixView<T> part = x.middle_cols(first, std::min(slab, x.cols - first));
      if (transposed) {
        transform.apply_transposed(part, scratch.data());
      } else {
        transform.apply(part, scratch.data());
      }
    }
  }
}

template void apply_in_slabs<float>(const Transform&, MatrixView<float>, bool);
template void apply_in_slabs<double>(const Transform&, MatrixView<double>, bool);

}  // namespace quip
