#include "job_report.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "quip/pipeline/report.hpp"

namespace quip {
namespace {

nlohmann::json size_report(const TensorSource& source, const std::set<std::string>& quantized,
                           const LayerTotals& totals) {
  double before = 0;
  double linear_before = 0;
  for (const std::string& name : source.names()) {
    const auto bytes = static_cast<double>(source.info(name).bytes());
    before += bytes;
    if (quantized.contains(name)) linear_before += bytes;
  }
  return {{"bytes_before", before},
          {"bytes_after", before - linear_before + totals.stored_bytes},
          {"linear_bytes_before", linear_before},
          {"linear_bytes_after", totals.stored_bytes},
          {"bits_per_weight", totals.bits_per_weight()}};
}

}  // namespace

index_t parameters(const TensorSource& source) {
  index_t count = 0;
  for (const std::string& name : source.names()) {
    const TensorInfo& info = source.info(name);
    if (computes_with(info.dtype)) count += info.elements();  // the others are tables and masks
  }
  return count;
}

nlohmann::json model_report(const TensorSource& source, const std::set<std::string>& quantized,
                            const std::vector<nlohmann::json>& reports) {
  const LayerTotals totals = totals_of(reports);
  return {{"mean_relative_proxy_loss", totals.mean_loss},
          {"size", size_report(source, quantized, totals)},
          {"layers", reports}};
}

nlohmann::json wide_report(const WideOptions& options, const WideFactorisers& factorisers,
                           int ranks) {
  nlohmann::json out = nlohmann::json::array();
  for (const auto& [width, names] : factorisers) {
    const BlockCyclic layout = options.layout(width, ranks);
    out.push_back({{"inputs", width},
                   {"grid", to_string(layout.grid)},
                   {"block", layout.rows.block},
                   {"cholesky", fmt::format("{}", fmt::join(names, ", "))}});
  }
  return out;
}

}  // namespace quip
