// What report.json says of layers and sizes.
#pragma once

#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "quip/model/tensor_source.hpp"

namespace quip {

/// Layers, their mean loss, and sizes before and after. `quantized` names the tensors that were,
/// `reports` their layers.
[[nodiscard]] nlohmann::json model_report(const TensorSource& source,
                                          const std::set<std::string>& quantized,
                                          const std::vector<nlohmann::json>& reports);

}  // namespace quip
