// From codes back to weights.
#pragma once

#include "quip/core/matrix.hpp"
#include "quip/quant/code/grid.hpp"
#include "quip/quant/code/quantized_linear.hpp"
#include "quip/quant/transform/transform.hpp"

namespace quip {

/// Returns the grid of group i (row · groups + group of columns) of w'.
[[nodiscard]] RowGrid grid_of(const QuantizedLinear& layer, index_t i);

/// Writes columns [first, first + out.cols) of w' to `out` [rows × width]; `first` and the width
/// are multiples of 16, but for the last columns. Serial.
void decode_columns(const QuantizedLinear& layer, index_t first, MatrixView<float> out);

/// Computes Ŵ = Uᵀ w' V D̃⁻¹ in two steps, each of which may be shared out: U works on whole columns
/// of the first step's result. The bits do not depend on the choice of ranges. Parallel. A trellis
/// is decoded in the first step, blocks of 128 rows by whoever has their first.
class Dequantizer {
 public:
  /// `layer` has to outlive it.
  explicit Dequantizer(const QuantizedLinear& layer);

  /// Writes rows [begin, end) of w' V to those of `out` [rows × cols], padding included.
  void fill_rows(index_t begin, index_t end, MatrixView<float> out) const;
  /// Finishes columns [begin, end), once all rows are filled.
  void finish_columns(index_t begin, index_t end, MatrixView<float> out) const;

 private:
  const QuantizedLinear& layer_;
  LayerTransforms transforms_;  ///< none with a trellis
};

/// Returns Ŵ [outputs × inputs].
[[nodiscard]] Matrix<float> dequantize(const QuantizedLinear& layer);

}  // namespace quip
