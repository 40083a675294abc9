// Bits for each layer, such that their mean is met and the calibration tokens lose the least.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "quip/calib/token_set.hpp"
#include "quip/core/phases.hpp"
#include "quip/pipeline/quantize.hpp"

namespace quip {

/// Layers that get the same bits: those of a block that read the same input, which engines fuse.
struct BitUnit {
  std::vector<std::string> layers;
  double weights = 0;
  double divergence = 0;  ///< of the predictions where they alone are quantized, to any one width
};

/// Returns the bits of each unit, of the ascending `widths`, with a mean over weights of up to
/// `mean`. The divergence of b bits is taken for c·4⁻ᵇ, and those of units for independent: bits go
/// one by one to where they take off most for a weight.
[[nodiscard]] std::vector<int> allocate_bits(const std::vector<BitUnit>& units, double mean,
                                             std::span<const int> widths);

/// Returns the widths to choose from.
[[nodiscard]] std::vector<int> candidate_widths(const LayerOptions& options, double mean);

/// Returns bits by layer for options.mean_bits, measured (collective): each unit by itself is
/// quantized with scalar codes, all else left as it is, and the divergence of the model's
/// predictions from the unquantized ones taken on some of the calibration samples. All units pass
/// through the blocks side by side, so that the checkpoint is read once. Layers whose bits an
/// override sets take no part. The same on any number of ranks. Throws AgreedError for a mixture of
/// experts.
[[nodiscard]] std::map<std::string, int> measure_bits(Collectives& comm, Backend& backend,
                                                      const QuantizeOptions& options,
                                                      const TensorSource& source, Family& family,
                                                      const TokenSet& tokens, index_t samples,
                                                      Phases& phases, Progress& progress);

/// Returns bits by layer as if all were equally sensitive: for plans, which have no weights.
[[nodiscard]] std::map<std::string, int> even_bits(const QuantizeOptions& options,
                                                   const Family& family);

}  // namespace quip
