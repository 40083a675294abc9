// `quip quantize`: a checkpoint and a token set in, a packed model out.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "quip/backend/backend.hpp"
#include "quip/comm/collectives.hpp"
#include "quip/model/family.hpp"
#include "quip/pipeline/export.hpp"
#include "quip/pipeline/progress.hpp"
#include "quip/pipeline/wide_options.hpp"
#include "quip/quant/options/options.hpp"
#include "quip/quant/options/overrides.hpp"
#include "quip/store/packed_writer.hpp"

namespace quip {

/// The tokens from which the Hessians of an expert's layers are made: those that are routed to it,
/// or all.
enum class ExpertHessians { routed, all };
[[nodiscard]] inline std::string to_string(ExpertHessians experts) {
  return experts == ExpertHessians::all ? "all" : "routed";
}

/// The weights that layers are rounded to: their own (layer), or those that also make up for what
/// was lost before them (stream), which takes a second, unquantized stream of hidden states.
struct StreamOptions {
  bool on = true;
  /// α: the share of what the inputs have drifted by for which a layer makes up.
  double drift = 1;
  /// β: the share of the residual's own error that a layer which adds to it takes off.
  double residual = 1;
  /// True if it is to be off for a model of which no layer could be moved (--target auto).
  bool where_useful = true;

  /// True if any weight is moved.
  [[nodiscard]] bool moves() const { return on && (drift > 0 || residual > 0); }
  /// True if a layer is.
  [[nodiscard]] bool moves(const LinearSpec& layer) const {
    return on && (drift > 0 || (layer.adds && residual > 0));
  }
  /// Returns the options for a model, `where_useful` decided.
  [[nodiscard]] StreamOptions decided(const Family& family) const;
};

struct QuantizeOptions {
  std::filesystem::path model;
  std::filesystem::path tokens;
  std::filesystem::path out;
  index_t samples = 0;  ///< 0: all
  std::string skip;     ///< linears whose name it matches stay as they are; empty: none
  /// Folder for the weights and Hessians of layers that cannot be factorised (wide ones leave
  /// nothing); empty: none. Costs a copy of the Hessian being factorised.
  std::filesystem::path dump_failing;
  bool allow_unused = false;  ///< a block may hold tensors that its family does not have
  /// Hessians see the quantized layers of their own block too, not only of the blocks before: one
  /// tap is rounded before the next is captured.
  bool true_sequential = false;
  StreamOptions stream;
  /// True if the layers of a block go one after the other.
  [[nodiscard]] bool sequential() const { return true_sequential || stream.on; }
  ExpertHessians experts = ExpertHessians::routed;
  /// κ: an expert with T tokens has its Hessian moved by κ/(T + κ) towards what all tokens give.
  double expert_prior = 64;
  /// True if Hessians of experts take in what all tokens give.
  [[nodiscard]] bool averages_experts() const {
    return experts == ExpertHessians::all || expert_prior > 0;
  }
  WideOptions wide;  ///< layers that all ranks work on together
  LayerOptions layer;
  /// The mean of bits over weights, with those of each layer chosen by what it loses; none: all
  /// have layer.bits, which is otherwise the whole number below.
  std::optional<double> mean_bits;
  std::map<std::string, int> bits_by_layer;  ///< those choices
  Overrides overrides;                       ///< options of single layers

  // Members below do not change the result.
  /// The format that is to hold all layers; null: any.
  const ExportFormat* export_format = nullptr;
  Start start = Start::fresh;
  std::optional<KeepStates> keep_states;  ///< empty: as their size suggests (states_to_keep)
  std::optional<Range> blocks;  ///< quantize these only, and leave the rest to another run
  /// Asked on every rank after each block; one true ends the run there.
  std::function<bool()> stop_requested = [] { return false; };
  /// Called on every rank with lines for the user.
  std::function<void(const std::string&)> on_note = [](const std::string&) {};

  /// Returns how a layer is quantized.
  [[nodiscard]] LayerOptions of(const std::string& name) const {
    const auto chosen = bits_by_layer.find(name);
    if (chosen == bits_by_layer.end()) return overrides.apply(layer, name);
    LayerOptions own = layer;
    own.bits = chosen->second;
    return overrides.apply(own, name);
  }
  /// Returns the linears that get quantized, block by block: all but those that `skip` matches.
  [[nodiscard]] std::vector<std::vector<LinearSpec>> selected(const Family& family,
                                                              Range range) const;
  [[nodiscard]] std::vector<LinearSpec> selected(const Family& family, index_t block) const {
    return selected(family, Range{block, block + 1}).front();
  }
};

enum class Ending {
  finished,
  already_complete,  ///< an earlier run had finished
  range_done,        ///< all of `blocks` are done, others are left
  stopped            ///< `stop_requested` ended it
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
