// What a job will do to a model's layers, before it begins.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "quip/comm/collectives.hpp"
#include "quip/io/tensor_source.hpp"
#include "quip/pipeline/block_quantizer.hpp"
#include "quip/pipeline/quantize.hpp"

namespace quip {

struct LayerSurvey {
  std::set<std::string> quantized;  ///< tensors
  std::set<index_t> wide;           ///< widths of layers that all ranks work on together
  index_t widest = 0;               ///< of all layers
};

/// Goes through the layers of all blocks. Throws Error for settings that one of them cannot have,
/// or that leave nothing to do, and for Hessians beyond the memory of this node.
[[nodiscard]] LayerSurvey survey_layers(const Collectives& comm, const BlockQuantizer& quantizer,
                                        index_t blocks, const QuantizeOptions& options);

/// Everything that is not quantized goes to rest.h5 as it is.
[[nodiscard]] std::vector<std::string> remaining_tensors(const TensorSource& source,
                                                         const std::set<std::string>& quantized);

}  // namespace quip
