#include "job_report.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace quip {
namespace {

/// Sums over layers.
struct Tally {
  nlohmann::json layers = nlohmann::json::array();
  double loss_sum = 0;
  double weights = 0;
  double linear_bytes = 0;

  explicit Tally(const std::vector<nlohmann::json>& reports) {
    for (const nlohmann::json& layer : reports) {
      layers.push_back(layer);
      loss_sum += layer.at("relative_proxy_loss").get<double>();
      weights += layer.at("rows").get<double>() * layer.at("cols").get<double>();
      linear_bytes += layer.at("stored_bytes").get<double>();
    }
  }
};

nlohmann::json size_report(const TensorSource& source, const std::set<std::string>& quantized,
                           const Tally& tally) {
  double before = 0;
  double linear_before = 0;
  for (const std::string& name : source.names()) {
    const auto bytes = static_cast<double>(source.info(name).bytes());
    before += bytes;
    if (quantized.contains(name)) linear_before += bytes;
  }
  return {{"bytes_before", before},
          {"bytes_after", before - linear_before + tally.linear_bytes},
          {"linear_bytes_before", linear_before},
          {"linear_bytes_after", tally.linear_bytes},
          {"bits_per_weight", 8 * tally.linear_bytes / tally.weights}};
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
  Tally tally(reports);
  return {{"mean_relative_proxy_loss", tally.loss_sum / static_cast<double>(reports.size())},
          {"size", size_report(source, quantized, tally)},
          {"layers", std::move(tally.layers)}};
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
