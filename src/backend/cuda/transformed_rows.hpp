// Rows of a layer on the device, before and after rounding: transposed [n × rows], in the order of
// rounding, with the host's bits.
#pragma once

#include "context.hpp"

#include "quip/quant/code/quantized_linear.hpp"
#include "quip/quant/factor/factor.hpp"
#include "quip/quant/round/tiles.hpp"

namespace quip::cuda {

/// Returns how many lanes of `bytes` each fit in half of what is free, at most `count`. Throws
/// Error if none does.
[[nodiscard]] index_t lanes_at_once(Context& context, index_t count, std::size_t bytes);

/// Does the work of transform_rows, slab by slab of columns.
[[nodiscard]] DeviceBuffer<float> transform_rows_on_device(Context& context,
                                                           MatrixView<const float> weights,
                                                           const PreparedLayer& layer,
                                                           const LayerTransforms& transforms,
                                                           Range rows);

/// Returns rows of Ŵ D̃ Vᵀ, what is coded with U undone. Slab by slab, too.
[[nodiscard]] DeviceBuffer<float> coded_rows_on_device(Context& context,
                                                       const QuantizedLinear& stored,
                                                       const std::vector<index_t>& order,
                                                       Range rows);

}  // namespace quip::cuda
