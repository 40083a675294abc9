// Codes on the device, and what they stand for.
#pragma once

#include "backend/cuda/kernels/transform_kernels.hpp"
#include "context.hpp"

#include "quip/quant/code/quantized_linear.hpp"

namespace quip::cuda {

/// The grids of a layer with scalar codes.
class CodeGrids {
 public:
  CodeGrids() = default;
  CodeGrids(Context& context, const QuantizedLinear& layer);
  /// Returns the columns from `first` on, whose codes are in `packed`.
  [[nodiscard]] CodeMatrix matrix(const std::uint8_t* packed, index_t row_bytes,
                                  index_t first = 0) const;

 private:
  DeviceBuffer<float> step_;
  DeviceBuffer<float> offset_;
  CodeMatrix matrix_;
};

/// Decodes columns of a layer whose codes stay on the host, w' with the host's bits.
class ColumnDecoder {
 public:
  /// Columns are decoded from a multiple of this on, as many or up to the last.
  static constexpr index_t unit = trellis::tile_side;

  ColumnDecoder(Context& context, const QuantizedLinear& layer);
  /// Returns the device memory that a column takes meanwhile.
  [[nodiscard]] index_t column_bytes() const { return packed_bytes(layer_.rows, layer_.bits); }
  void decode(index_t first, MatrixView<float> out) const;

 private:
  void decode_levels(index_t first, MatrixView<float> out) const;
  void decode_states(index_t first, MatrixView<float> out) const;

  Context& context_;
  const QuantizedLinear& layer_;
  CodeGrids grids_;
  DeviceBuffer<float> values_;  ///< by state
};

}  // namespace quip::cuda
