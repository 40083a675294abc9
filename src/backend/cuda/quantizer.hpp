// Quantization on the device.
#pragma once

#include <memory>

#include "context.hpp"

#include "quip/backend/quantizer.hpp"

namespace quip::cuda {

[[nodiscard]] std::unique_ptr<Quantizer> make_quantizer(Context& context);

}  // namespace quip::cuda
