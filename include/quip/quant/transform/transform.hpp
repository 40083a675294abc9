// Random orthogonal transforms, which make weights and Hessians incoherent (QuIP, §4.1).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "quip/core/matrix.hpp"
#include "quip/quant/transform/transform_kind.hpp"

namespace quip {

/// The side of W to which a transform belongs. The rows of W are rounded independently, so an
/// output permutation of U would only rename them: transforms of the output side leave it out, and
/// a contiguous range of their rows is cheap.
enum class Side { output, input };

/// One factor of a transform, for code that applies it in its own way. X is [n × c].
struct TransformStep {
  enum class Kind {
    gather,    ///< row i of the result is row order[i] of X
    scatter,   ///< row order[i] of the result is row i of X
    scale,     ///< row i times scale[i]
    walsh,     ///< fast Walsh–Hadamard over rows `stride` apart, the largest distance first, in
               ///< each run of size·stride rows
    multiply,  ///< small matrices times rows of X
  };
  Kind kind = Kind::gather;
  std::span<const index_t> order{};  ///< gather, scatter
  std::span<const double> scale{};   ///< scale
  index_t size = 1;                  ///< walsh: order of the transform, 2ᵏ
  index_t stride = 1;                ///< walsh and multiply: rows from one element to the next
  /// multiply: batch b takes element i from the `width` rows that begin at b·batch_stride +
  /// i·stride and multiplies them with factors[b], or with the only one.
  std::vector<MatrixView<const double>> factors{};
  index_t batches = 1;
  index_t batch_stride = 0;
  index_t width = 1;
};

/// An orthogonal n × n matrix Q that is never formed unless it is small. Every element of a result
/// comes out of one fixed sequence of operations: columns and ranges of rows may be computed
/// anywhere. Immutable, so threads share it.
class Transform {
 public:
  explicit Transform(index_t n) : n_(n) {}
  Transform(const Transform&) = delete;
  Transform& operator=(const Transform&) = delete;
  virtual ~Transform() = default;

  [[nodiscard]] index_t size() const { return n_; }
  [[nodiscard]] virtual bool is_identity() const { return false; }

  /// Transforms X ← Q X for X [n × c], its rows any distance apart, c few enough that n·c elements
  /// fit the cache; `scratch` holds n·c elements.
  virtual void apply(MatrixView<float> x, float* scratch) const = 0;
  virtual void apply(MatrixView<double> x, double* scratch) const = 0;
  /// Transforms X ← Qᵀ X.
  virtual void apply_transposed(MatrixView<float> x, float* scratch) const = 0;
  virtual void apply_transposed(MatrixView<double> x, double* scratch) const = 0;
  /// Writes rows [first, first + out.rows) of Q X to `out` [rows × c]; X is overwritten. Only for
  /// Side::output.
  virtual void apply_rows(MatrixView<float> x, index_t first, MatrixView<float> out,
                          float* scratch) const = 0;
  /// Returns the steps of Q X in order, with the same sequence of operations for every element; Qᵀ
  /// X undoes them from the last to the first. Refers to this object.
  [[nodiscard]] virtual std::vector<TransformStep> steps() const = 0;

 private:
  index_t n_;
};

/// Makes the transform of a kind, in the one place of that choice. Its bits depend on kind, n, key
/// and side. Throws Error if the kind does not suit n (a dense matrix is for small n, hadamard_128
/// for multiples of 128).
[[nodiscard]] std::unique_ptr<const Transform> make_transform(TransformKind kind, index_t n,
                                                              std::uint64_t key, Side side);

/// U (on the outputs) and V (on the inputs) of a layer.
struct LayerTransforms {
  std::unique_ptr<const Transform> u;
  std::unique_ptr<const Transform> v;
};
[[nodiscard]] LayerTransforms make_transforms(TransformKind kind, index_t rows, index_t cols,
                                              std::uint64_t seed_u, std::uint64_t seed_v);

/// Returns the flops of Q x for one vector of n elements. A multiply-add is two.
[[nodiscard]] double transform_flops(TransformKind kind, index_t n);
/// Returns the flops of U W D̃ Vᵀ for `rows` rows of a layer, or of Ŵ from its codes.
[[nodiscard]] double transform_rows_flops(TransformKind kind, index_t layer_rows, index_t cols,
                                          index_t rows);

/// Computes Q X (or Qᵀ X) for all columns of X, in slabs over OpenMP threads.
template <typename T>
void apply_in_slabs(const Transform& transform, MatrixView<T> x, bool transposed);

}  // namespace quip
