// From codes back to weights.
#pragma once

#include "quip/core/matrix.hpp"
#include "quip/quant/quantized_linear.hpp"

namespace quip {

/// Ŵ [rows × cols] in fp32. Parallel over OpenMP threads; the same bits for any number.
[[nodiscard]] Matrix<float> dequantize(const QuantizedLinear& layer);

/// The same into `out` [rows × cols].
void dequantize(const QuantizedLinear& layer, MatrixView<float> out);

}  // namespace quip
