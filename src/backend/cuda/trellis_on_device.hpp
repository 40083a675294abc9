// Trellis codes on the device: the search for states, and tables by state.
#pragma once

#include <memory>

#include "context.hpp"

#include "quip/quant/round/rounding_math.hpp"

namespace quip::cuda {

/// RoundingMath::tile_coder. Takes search_bytes of device memory (device_work.hpp), or less where
/// there is less.
[[nodiscard]] std::unique_ptr<TileCoder> tile_coder_on_device(Context& context,
                                                              trellis::Codebook codebook, int bits);

}  // namespace quip::cuda
