// A survey of a model's layers before a job begins.
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
};

/// Goes through the layers of all blocks. Throws Error for settings that one of them cannot have,
/// or that leave nothing to do, and for Hessians beyond the memory of this node.
[[nodiscard]] LayerSurvey survey_layers(const Collectives& comm, const BlockQuantizer& quantizer,
                                        index_t blocks, const QuantizeOptions& options);

/// Returns the tensors that are not quantized and go to rest.h5 as they are.
[[nodiscard]] std::vector<std::string> remaining_tensors(const TensorSource& source,
                                                         const std::set<std::string>& quantized);

}  // namespace quip
