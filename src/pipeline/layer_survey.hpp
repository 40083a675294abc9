// A survey of a model's layers before a job begins.
#pragma once

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "quip/comm/collectives.hpp"
#include "quip/io/tensor_source.hpp"
#include "quip/pipeline/quantize.hpp"

namespace quip {

/// Returns a note on those of the layers whose last group of columns is shorter than the others:
/// the first of them, and how many more there are. Empty if there are none.
[[nodiscard]] std::string note_on_groups(
    const std::vector<std::pair<LinearSpec, LayerOptions>>& layers);

struct LayerSurvey {
  std::set<std::string> quantized;  ///< tensors
  std::set<index_t> wide;           ///< widths of layers that all ranks work on together
  index_t widest = 0;               ///< inputs of the widest layer
  std::vector<std::string> notes;   ///< lines for the user
};

/// Goes through the layers of all blocks. Throws Error for settings that one of them cannot have,
/// that leave nothing to do or match nothing.
[[nodiscard]] LayerSurvey survey_layers(const Family& family, const QuantizeOptions& options,
                                        int ranks);

/// Throws Error if the Hessians of a block go beyond the memory of this node.
void check_hessian_memory(const Collectives& comm, const Family& family,
                          const QuantizeOptions& options);

/// Returns the tensors that are not quantized and go to rest.h5 as they are.
[[nodiscard]] std::vector<std::string> remaining_tensors(const TensorSource& source,
                                                         const std::set<std::string>& quantized);

}  // namespace quip
