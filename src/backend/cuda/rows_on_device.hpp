// Rows of a layer on the device, from the weights to the codes.
#pragma once

#include <memory>

#include "lane_rounding.hpp"

#include "quip/backend/quantizer.hpp"

namespace quip::cuda {

/// Quantizer::rows with what is made of the Hessian on the device already.
[[nodiscard]] std::unique_ptr<LayerRows> rows_on_device(Context& context,
                                                        MatrixView<const float> weights,
                                                        std::shared_ptr<const LayerOnDevice> layer,
                                                        Range rows);

}  // namespace quip::cuda
