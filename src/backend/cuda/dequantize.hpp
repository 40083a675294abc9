// Dequantization on the device.
#pragma once

#include "context.hpp"

#include "quip/backend/backend.hpp"
#include "quip/quant/code/quantized_linear.hpp"

namespace quip::cuda {

/// Writes Ŵ = diag(output_scale) Uᵀ w' V D̃⁻¹ to `out` [rows × cols], contiguous and scratch before.
/// The first kernel reads the codes, the last of the transforms divides by D̃. A trellis is decoded
/// by one kernel, without its padding, in fp32, which differs from the host's by rounding. Takes
/// dequantize_bytes besides.
void dequantize(Context& context, const QuantizedLinear& layer, TensorView out);

}  // namespace quip::cuda
