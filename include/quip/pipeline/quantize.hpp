// `quip quantize`: a checkpoint and a token set in, a packed model out.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include "quip/backend/backend.hpp"
#include "quip/comm/collectives.hpp"
#include "quip/pipeline/progress.hpp"
#include "quip/pipeline/wide_options.hpp"
#include "quip/quant/options/options.hpp"
#include "quip/quant/options/overrides.hpp"
#include "quip/store/packed_writer.hpp"

namespace quip {

struct QuantizeOptions {
  std::filesystem::path model;
  std::filesystem::path tokens;
  std::filesystem::path out;
  index_t samples = 0;  ///< 0: all
  std::string skip;     ///< linears whose name it matches stay as they are; empty: none
  std::filesystem::path dump_failing;  ///< folder for layers that cannot be factorised; empty: none
  bool true_sequential = false;        ///< Hessians see the quantized layers of their own block too
  WideOptions wide;                    ///< layers that all ranks work on together
  LayerOptions layer;
  Overrides overrides;  ///< options of single layers

  // How the job is run; none of it changes the result.
  Start start = Start::fresh;
  std::optional<KeepStates> keep_states;  ///< empty: as their size suggests (states_to_keep)
  std::optional<Range> blocks;  ///< quantize these only, and leave the rest to another run
  /// Asked on every rank after each block: end here? One yes is enough.
  std::function<bool()> stop_requested = [] { return false; };
  /// Called on every rank with lines for the user.
  std::function<void(const std::string&)> on_note = [](const std::string&) {};
};

enum class Ending {
  finished,
  already_complete,  ///< by an earlier run; there was nothing to do
  range_done,        ///< all of `blocks`; others are left
  stopped            ///< because `stop_requested` said so
};

struct QuantizeOutcome {
  Ending ending = Ending::finished;
  index_t blocks_done = 0;
  index_t blocks = 0;
  nlohmann::json report;  ///< if finished
};

/// Runs the job (collective), or what is left of it; the same outcome on every rank.
[[nodiscard]] QuantizeOutcome quantize(Collectives& comm, Backend& backend,
                                       const QuantizeOptions& options, int threads,
                                       Progress& progress);

}  // namespace quip
