// The powers of two that make activations 16-bit integers.
#pragma once

#include <string>
#include <vector>

#include "quip/backend/backend.hpp"
#include "quip/comm/collectives.hpp"

namespace quip {

struct ChannelScales {
  std::vector<float> scale;  ///< [n]
  double tokens = 0;         ///< number on all ranks

  /// Returns the factor of row i. Divided by the scale of column j it turns an element of the
  /// integers' sum into one of H = Σₜ xₜᵀxₜ / T. In this order everywhere, so that H has the same
  /// bits.
  [[nodiscard]] double row_unit(index_t i) const {
    return 1.0 / (static_cast<double>(scale[at(i)]) * tokens);
  }
  [[nodiscard]] double unit(index_t i, index_t j) const { return row_unit(i) / scale[at(j)]; }
};

/// Finds them from the channels' largest magnitudes over all ranks (collective).
/// `x` [this rank's tokens × n].
/// `what` names the layer in messages; throws AgreedError for a NaN or an infinity, naming layer,
/// sample and channel, and for more tokens than can be summed exactly.
[[nodiscard]] ChannelScales measure_channels(Collectives& comm, Backend& backend, ConstTensorView x,
                                             index_t first_sample, index_t sample_length,
                                             const std::string& what);

}  // namespace quip
