// Quantization on the device.
#pragma once

#include <memory>

#include "context.hpp"

#include "quip/backend/backend.hpp"
#include "quip/backend/quantizer.hpp"
#include "quip/quant/quantized_linear.hpp"

namespace quip::cuda {

[[nodiscard]] std::unique_ptr<Quantizer> make_quantizer(Context& context);

/// Ŵ into `out` [rows × cols] on the device: unpacked, transformed back and divided by D̃ there.
void dequantize(Context& context, const QuantizedLinear& layer, TensorView out);

}  // namespace quip::cuda
