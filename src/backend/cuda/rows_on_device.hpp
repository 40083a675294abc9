// Rows of a layer on the device, from the weights to the codes.
#pragma once

#include <memory>

#include "context.hpp"

#include "quip/backend/quantizer.hpp"

namespace quip::cuda {

/// Quantizer::rows.
[[nodiscard]] std::unique_ptr<LayerRows> rows_on_device(Context& context,
                                                        MatrixView<const float> weights,
                                                        const PreparedLayer& layer,
                                                        const LayerOptions& options, Range rows);

}  // namespace quip::cuda
