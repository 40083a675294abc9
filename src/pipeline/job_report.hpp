// What report.json says of layers and sizes.
#pragma once

#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "quip/model/tensor_source.hpp"

namespace quip {

/// Elements of all tensors of a checkpoint.
[[nodiscard]] index_t parameters(const TensorSource& source);

/// Layers, their mean loss, and sizes before and after. `quantized` names the tensors that were,
/// `reports` their layers.
[[nodiscard]] nlohmann::json model_report(const TensorSource& source,
                                          const std::set<std::string>& quantized,
                                          const std::vector<nlohmann::json>& reports);

}  // namespace quip
