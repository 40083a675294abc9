// The powers of two that make activations 16-bit integers.
#pragma once

#include <string>
#include <vector>

#include "quip/backend/backend.hpp"
#include "quip/comm/collectives.hpp"

namespace quip {

/// Returns the largest power of two s with round(maximum · s) ≤ 32767; 1 for a maximum of zero.
[[nodiscard]] float channel_scale(float maximum);

struct ChannelScales {
  std::vector<float> scale;  ///< [n]
  double tokens = 0;         ///< number on all ranks
  float largest = 0;         ///< magnitude in any channel

  /// Returns the factor of row i. Divided by the scale of column j it turns an element of the
  /// integers' sum into one of H = Σₜ xₜᵀxₜ / T. In this order everywhere, so that H has the same
  /// bits.
  [[nodiscard]] double row_unit(index_t i) const {
    return 1.0 / (static_cast<double>(scale[at(i)]) * tokens);
  }
  [[nodiscard]] double unit(index_t i, index_t j) const { return row_unit(i) / scale[at(j)]; }
  /// Makes H of the lower triangle of the integers' sum [n × n].
  void apply(MatrixView<double> sum) const;
};

/// Throws Error for more tokens than can be summed exactly.
void check_exact(double tokens);

/// Finds them from the channels' largest magnitudes over all ranks (collective).
/// `x` [this rank's tokens × n].
/// `what` names the layer in messages; throws AgreedError for a NaN or an infinity, naming layer,
/// sample and channel, and for more tokens than can be summed exactly.
[[nodiscard]] ChannelScales measure_channels(Collectives& comm, Backend& backend, ConstTensorView x,
                                             index_t first_sample, index_t sample_length,
                                             const std::string& what);

}  // namespace quip
