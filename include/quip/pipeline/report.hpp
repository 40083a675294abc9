// What a run tells about itself: report.json and the summary on the screen.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "quip/comm/collectives.hpp"
#include "quip/core/phases.hpp"

namespace quip {

/// Phases over all ranks: seconds of the slowest rank, flops and bytes sent summed (collective).
[[nodiscard]] nlohmann::json gather_phases(Collectives& comm, const Phases& phases);

/// Peak resident memory of every rank in bytes (collective).
[[nodiscard]] std::vector<index_t> gather_peak_memory(Collectives& comm);

/// The summary that people read at the end: losses by layer type, seconds by phase, sizes.
[[nodiscard]] std::string summary_table(const nlohmann::json& report);

/// "name  value" lines, aligned.
[[nodiscard]] std::string settings_table(
    const std::vector<std::pair<std::string, std::string>>& settings);

/// 1536 → "1.5 KiB".
[[nodiscard]] std::string human_bytes(double bytes);

}  // namespace quip
