// The speed of a machine at the steps of `quip quantize`: measured (calibrate.hpp) or from a file.
#pragma once

#include <array>
#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include "quip/core/matrix.hpp"
#include "quip/plan/ledger.hpp"

namespace quip::plan {

/// Phases whose time is that of arithmetic.
inline const std::array<std::string, 6> computing_phases{"capture", "hessian",    "factor",
                                                         "round",   "dequantize", "forward"};

/// Seconds of one collective on the layout where it was measured = latency + bytes / bandwidth,
/// bytes being what the busiest link of a rank carries (transferred_bytes).
struct Link {
  double latency = 0;
  double bandwidth = 0;
};

struct Rates {
  std::string machine;  ///< for the reader
  int ranks = 1;        ///< that were there when links and files were measured
  int ranks_per_node = 1;
  index_t baseline_bytes = 0;          ///< memory of a rank before it holds anything of a model
  std::map<std::string, double> host;  ///< flops per second of a core, by phase
  std::map<std::string, double>
      device;  ///< the same for a device; a phase that is not here runs on the host
  std::map<std::string, Link> links;  ///< by name of Exchange; empty if measured on one rank
  double read_bandwidth = 0;          ///< bytes a second and rank, conversion to fp32 included
  double write_bandwidth = 0;         ///< bytes a second and rank, digests and sync included
  double durable_seconds = 0;         ///< to write, sync and rename a small file
};

/// Returns the bytes on the busiest link of a rank for a payload on `size` ranks, as the program
/// carries it out: a sum sends and receives (P−1)/P of it twice, a broadcast deals out and gathers.
[[nodiscard]] double transferred_bytes(Exchange kind, double payload, int size);

[[nodiscard]] nlohmann::json to_json(const Rates& rates);
/// Throws Error naming file and field if one is missing or no positive number.
[[nodiscard]] Rates read_rates(const std::filesystem::path& file);

}  // namespace quip::plan
