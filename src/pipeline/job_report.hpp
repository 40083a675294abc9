// What report.json says of layers and sizes.
#pragma once

#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "quip/io/tensor_source.hpp"
#include "quip/pipeline/wide_options.hpp"

namespace quip {

/// Elements of all tensors of a checkpoint.
[[nodiscard]] index_t parameters(const TensorSource& source);

/// Layers, their mean loss, and sizes before and after. `quantized` names the tensors that were,
/// `reports` their layers.
[[nodiscard]] nlohmann::json model_report(const TensorSource& source,
                                          const std::set<std::string>& quantized,
                                          const std::vector<nlohmann::json>& reports);

/// For each width of wide layers that this run factorised: how their Hessians were spread, and by
/// whom they were factorised (if by several, all their names).
[[nodiscard]] nlohmann::json wide_report(const WideOptions& options,
                                         const WideFactorisers& factorisers, int ranks);

}  // namespace quip
