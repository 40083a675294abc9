// What report.json says of layers and sizes.
#pragma once

#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "quip/model/tensor_source.hpp"
#include "quip/pipeline/wide_options.hpp"

namespace quip {

/// Elements of all tensors of a checkpoint.
[[nodiscard]] index_t parameters(const TensorSource& source);

/// Layers, their mean loss, and sizes before and after. `quantized` names the tensors that were,
/// `reports` their layers.
[[nodiscard]] nlohmann::json model_report(const TensorSource& source,
                                          const std::set<std::string>& quantized,
                                          const std::vector<nlohmann::json>& reports);

/// For each width of wide layers: how their Hessians were spread and factorised.
[[nodiscard]] nlohmann::json wide_report(const WideOptions& options,
                                         const std::set<index_t>& widths, int ranks);

}  // namespace quip
