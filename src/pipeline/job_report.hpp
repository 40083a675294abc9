// The parts of report.json on layers and sizes.
#pragma once

#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "quip/io/tensor_source.hpp"
#include "quip/pipeline/wide_options.hpp"

namespace quip {

/// Returns the number of elements of all tensors of a checkpoint.
[[nodiscard]] index_t parameters(const TensorSource& source);

/// Returns layers, their mean loss, and sizes before and after. `quantized` names the quantized
/// tensors, `reports` their layers.
[[nodiscard]] nlohmann::json model_report(const TensorSource& source,
                                          const std::set<std::string>& quantized,
                                          const std::vector<nlohmann::json>& reports);

/// Returns, for each width of wide layers that this run factorised, the layout of their Hessians
/// and the makers of their factors.
[[nodiscard]] nlohmann::json wide_report(const WideOptions& options,
                                         const WideFactorisers& factorisers, int ranks);

}  // namespace quip
