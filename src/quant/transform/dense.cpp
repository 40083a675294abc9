// A Haar-distributed orthogonal matrix as a whole: the reference for the fast transforms. 2·n²·c
// flops on n × c.
#include <algorithm>

#include "transforms.hpp"

#include "quip/core/rng.hpp"

namespace quip {
namespace {

class Dense final : public TransformOf<Dense> {
 public:
  Dense(index_t n, std::uint64_t key) : TransformOf(n) {
    require_small_factor(n, n, "dense", "kronecker or hadamard");
    matrix_ = SmallFactor(random_orthogonal(n, derive_key(key, "", "dense")));
  }

  template <typename T>
  void multiply(bool transposed, MatrixView<T> x, T* scratch) const {
    matrix_.multiply(transposed, 0, size(), x.cols, x.data, x.ld, scratch, x.cols);
    for (index_t i = 0; i < x.rows; ++i) std::copy_n(scratch + i * x.cols, x.cols, x.row(i));
  }

  void apply_rows(MatrixView<float> x, index_t first, MatrixView<float> out,
                  float* /*scratch*/) const override {
    matrix_.multiply(false, first, first + out.rows, x.cols, x.data, x.ld, out.data, out.ld);
  }

  [[nodiscard]] std::vector<TransformStep> steps() const override {
    return {{.kind = TransformStep::Kind::multiply, .factors = {matrix_.view()}}};
  }

 private:
  SmallFactor matrix_;
};

}  // namespace

std::unique_ptr<const Transform> make_dense(index_t n, std::uint64_t key) {
  return std::make_unique<Dense>(n, key);
}

}  // namespace quip
