// `quip quantize`: a checkpoint and a token set in, a packed model out.
#pragma once

#include <filesystem>
#include <string>

#include <nlohmann/json.hpp>

#include "quip/backend/backend.hpp"
#include "quip/comm/collectives.hpp"
#include "quip/pipeline/progress.hpp"
#include "quip/quant/options.hpp"
#include "quip/quant/overrides.hpp"

namespace quip {

struct QuantizeOptions {
  std::filesystem::path model;
  std::filesystem::path tokens;
  std::filesystem::path out;
  index_t samples = 0;  ///< 0: all
  std::string skip;     ///< linears whose name it matches stay as they are; empty: none
  std::filesystem::path dump_failing;  ///< folder for layers that cannot be factorised; empty: none
  bool true_sequential = false;        ///< Hessians see the quantized layers of their own block too
  LayerOptions layer;
  Overrides overrides;  ///< options of single layers
};

/// Runs the whole job (collective) and returns its report, the same on every rank.
[[nodiscard]] nlohmann::json quantize(Collectives& comm, Backend& backend,
                                      const QuantizeOptions& options, int threads,
                                      Progress& progress);

}  // namespace quip
