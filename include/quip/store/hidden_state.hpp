// The shape in which hidden states are stored, and access to their owner's memory.
#pragma once

#include <functional>
#include <span>

#include "quip/core/matrix.hpp"

namespace quip {

struct StateShape {
  index_t samples = 0;
  index_t length = 0;  ///< tokens of a sample
  index_t width = 0;   ///< hidden size of the model
  bool operator==(const StateShape&) const = default;
  [[nodiscard]] index_t sample_elements() const { return length * width; }
};

/// Copies sample `i` [length × width] (numbered over all ranks) out of, or into, its owner's
/// memory.
using FetchSample = std::function<void(index_t i, std::span<float> out)>;
using PutSample = std::function<void(index_t i, std::span<const float> in)>;

/// The hidden states that a run leaves on disk: none (resuming forwards the samples again through
/// the finished blocks), the last ones while it is running, or those before every block for good.
enum class KeepStates { none, last, all };

}  // namespace quip
