// The memory that a rank's work takes of its device: known before the work begins.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "quip/backend/backend.hpp"
#include "quip/comm/collectives.hpp"
#include "quip/core/footprint.hpp"
#include "quip/model/family.hpp"
#include "quip/pipeline/narrow_layers.hpp"
#include "quip/pipeline/quantize.hpp"

namespace quip {

/// Blocks whose tensors have the same shapes and whose linears are quantized alike.
struct BlockKind {
  std::vector<index_t> blocks;  ///< in their order
  /// The layers that are quantized, and their options.
  std::vector<std::pair<LinearSpec, LayerOptions>> linears;
};
/// Returns them in the order of their first blocks.
[[nodiscard]] std::vector<BlockKind> kinds_of_blocks(const Family& family,
                                                     const QuantizeOptions& options);

/// Returns the elements a token of the widest input that is captured.
[[nodiscard]] index_t widest_tap(const BlockPlan& plan);

/// Returns the elements a token of the widest errors that are fitted in a block (StreamTarget).
[[nodiscard]] index_t widest_errors(const LayerList& layers);
/// Returns the elements of the layers that read one tap, where they are the most: their targets,
/// and what they become, are there together.
[[nodiscard]] index_t largest_tap(const LayerList& layers);

/// A rank's part of a job.
struct DeviceWork {
  const Family& family;
  index_t samples = 0;
  index_t length = 0;  ///< tokens of the longest
  int rank = 0;
  int ranks = 1;
  int threads = 1;
  /// Kinds of the model's blocks. Where nothing is quantized the samples are forwarded only.
  std::vector<BlockKind> kinds;
  WideOptions wide;
  bool sequential = false;  ///< captured inputs stay while layers are rounded
  bool streams = false;     ///< two streams of states, and layers that are moved (StreamTarget)
  bool packed = false;      ///< forwarded only: quantized layers come as codes
};

struct DeviceNeeds {
  Footprint fullest;   ///< the fullest moment of all blocks, with every piece as large as is of use
  index_t fixed = 0;   ///< cannot be cut: a block's weights and the work in hand
  index_t pieces = 0;  ///< comes in smaller pieces, or on the host, where room is short
  index_t samples = 0;  ///< activations of all samples: they may lie in host memory

  /// Returns the bytes, of `total`, that the backend should keep for the work: pieces down to an
  /// eighth of the device are cut without much loss.
  [[nodiscard]] index_t kept(index_t total) const { return fixed + std::min(pieces, total / 8); }
  /// Returns the bytes of activations for which a device of `total` bytes has no room.
  [[nodiscard]] index_t overflow(index_t total) const {
    return std::clamp<index_t>(kept(total) + samples - total, 0, samples);
  }
};

[[nodiscard]] DeviceNeeds device_needs(const DeviceWork& work);

/// Holds every rank's needs against the memory of its device, and has the backend keep room for the
/// work. Throws AgreedError naming what does not fit, and how much; warns of activations that have
/// to stay in host memory (collective). Does nothing on a backend that works in the host's.
void plan_device_memory(Collectives& comm, Backend& backend, const DeviceWork& work);

}  // namespace quip
