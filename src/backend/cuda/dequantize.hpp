// From codes back to weights on the device.
#pragma once

#include "context.hpp"

#include "quip/backend/backend.hpp"
#include "quip/quant/options.hpp"
#include "quip/quant/quantized_linear.hpp"

namespace quip::cuda {

/// Ŵ = Uᵀ w' V D̃⁻¹ into `out` [rows × cols], contiguous, which kernels may use as working memory
/// before. The first kernel reads the codes, the last divides by D̃.
void dequantize(Context& context, const QuantizedLinear& layer, TensorView out);

/// Device memory that dequantize takes besides `out`, at most, for a layer that was quantized with
/// `options`: codes, grids, D̃, the factors of U and V, and where two matrices have to take turns,
/// one float per weight.
[[nodiscard]] std::size_t dequantize_bytes(index_t rows, index_t cols, const LayerOptions& options);

}  // namespace quip::cuda
