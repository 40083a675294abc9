// The report of a run on itself: report.json and the summary on the screen.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "quip/backend/backend.hpp"
#include "quip/comm/collectives.hpp"
#include "quip/core/phases.hpp"

namespace quip {

/// Returns the most memory that this process has had resident so far, in bytes.
[[nodiscard]] index_t peak_memory();

/// Reports the work of every rank up to now (collective; the same on all ranks):
///   phases        by name: seconds of the slowest rank, flops and bytes summed over ranks,
///                 communication_seconds their mean
///   rank_reports  by rank: host, seconds, peak memory and the same by phase; idle_seconds are
///                 those that a rank spent in collectives beyond the rank that spent the fewest,
///                 phase by phase
///   timeline      [rank, unit, start, end] of the units that ranks recorded
///   peak_rss_bytes of every rank; peak_device_bytes if the backend has memory of its own
[[nodiscard]] nlohmann::json usage_report(Collectives& comm, const Backend& backend,
                                          Phases& phases);

/// Sums over the entries of layers in reports.
struct LayerTotals {
  double mean_loss = 0;  ///< relative proxy loss of the layers that have one; NaN: none has
  double weights = 0;
  double stored_bytes = 0;  ///< codes, scales, zero points, D̃

  [[nodiscard]] double bits_per_weight() const { return 8 * stored_bytes / weights; }
};
[[nodiscard]] LayerTotals totals_of(const nlohmann::json& layers);

/// Losses of the layers of one type: those whose names end alike, "experts.up_proj" for experts'.
struct TypeLosses {
  std::string type;
  nlohmann::json layers = nlohmann::json::array();
  double mean = 0;  ///< relative proxy loss; NaN: none has one
  double worst = 0;
};
/// Returns them in the order of the first layers, from the entries of layers in reports.
[[nodiscard]] std::vector<TypeLosses> losses_by_type(const nlohmann::json& layers);

/// Returns a number of a report, NaN where it has null.
[[nodiscard]] double number_or_nan(const nlohmann::json& value);

/// Names the worst layers, and warns: of losses that could not be measured or that are far beyond
/// the other layers', of inputs that calibration never reached. Returns lines for people, from the
/// entries of layers in reports.
[[nodiscard]] std::string remarks_on(const nlohmann::json& layers);

/// Returns the summary for people at the end: losses by layer type, seconds by phase, sizes.
[[nodiscard]] std::string summary_table(const nlohmann::json& report);

/// Returns "name  value" lines, aligned.
[[nodiscard]] std::string settings_table(
    const std::vector<std::pair<std::string, std::string>>& settings);

/// Returns "0.120" for 0.12 and three digits, "-" for NaN.
[[nodiscard]] std::string decimals(double value, int digits);

/// Returns "1.5 KiB" for 1536.
[[nodiscard]] std::string human_bytes(double bytes);

}  // namespace quip
