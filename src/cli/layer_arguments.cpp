#include "layer_arguments.hpp"

#include <algorithm>

#include "command.hpp"

#include "quip/core/error.hpp"
#include "quip/pipeline/export.hpp"
#include "quip/quant/options/option_table.hpp"

namespace quip::cli {

/// A program that serves quantized models.
struct Engine {
  const char* name;
  const char* format;  ///< of exports that it loads
  /// Options of quantize that suit it best, name and value.
  std::vector<std::pair<const char*, const char*>> settings;
};

namespace {

/// Applies the paper's settings, and the authors' for OPTQ, which sees the weights as they are.
void apply_paper(LayerOptions& layer, const Command& command) {
  for (const char* fixed : {"rho", "clamp"}) {
    if (command.given(fixed)) {
      throw UsageError(fmt::format("--paper sets --{0} itself: leave out one of the two", fixed));
    }
  }
  if (layer.codebook == CodebookKind::trellis) {
    throw UsageError("--paper belongs to --codebook scalar: leave out one of the two");
  }
  layer.codebook = CodebookKind::scalar;
  if (!layer.output_scaling) layer.output_scaling = false;
  if (!layer.transform && layer.processing == Processing::incoherence) {
    layer.transform = TransformKind::kronecker;
  }
  if (layer.grid() == GridKind::incoherent) layer.rho = 2.4;
  layer.clamp = layer.feedback() == Feedback::inverse ? Clamp::feedback : Clamp::pre;
}

const std::vector<Engine>& engines() {
  static const std::vector<std::pair<const char*, const char*>> packed = {
      {"bits", "4"},    {"codebook", "scalar"}, {"processing", "baseline"}, {"method", "ldlq"},
      {"order", "act"}, {"group-size", "128"},  {"symmetric", "on"},        {"scale-type", "bf16"}};
  static const std::vector<Engine> engines = {{"vllm", "compressed-tensors", packed},
                                              {"sglang", "compressed-tensors", packed},
                                              {"exllamav3", "exl3", {{"codebook", "trellis"}}}};
  return engines;
}

/// Returns the help of --for: what it stands for, engine by engine.
std::string help_on_engines() {
  std::string names;
  std::string settings;
  for (const Engine& engine : engines()) {
    names += fmt::format("{}{}", names.empty() ? "" : ", ", engine.name);
    settings += fmt::format("; {}:", engine.name);
    for (const auto& [name, value] : engine.settings) {
      settings += fmt::format(" --{}{}", name,
                              value == std::string_view("on") ? "" : fmt::format(" {}", value));
    }
    settings += fmt::format(", exported with --format {}", engine.format);
  }
  return fmt::format(
      "one of {}; what suits that engine, unless an option says otherwise; layers that its format "
      "cannot hold are an error{}",
      names, settings);
}

const Engine& engine(const std::string& name) {
  std::vector<std::string> names;
  for (const Engine& engine : engines()) {
    if (engine.name == name) return engine;
    names.emplace_back(engine.name);
  }
  fail("must be one of {}", fmt::join(names, ", "));
}

/// Sets what suits the engine, but for options that were given, and those that have no meaning
/// beside them.
void apply_engine(const Engine& engine, const Command& command, LayerOptions& layer) {
  for (const auto& [name, value] : engine.settings) {
    const auto options = layer_options();
    const auto option = std::ranges::find(options, std::string_view(name), &LayerOption::name);
    LayerOptions with = layer;
    option->parse(with, value);
    const bool belongs = option->misplaced == nullptr || option->misplaced(with).empty();
    if (!command.given(name) && belongs) layer = with;
  }
}

std::string text_of(const OptionValue& value) {
  if (const bool* on = std::get_if<bool>(&value)) return *on ? "on" : "off";
  return std::visit([](const auto& known) { return fmt::format("{}", known); }, value);
}

}  // namespace

void LayerArguments::declare(po::options_description& options, QuantizeOptions* job) {
  for (const LayerOption& option : layer_options()) {
    const bool mean = job != nullptr && option.name == std::string_view("bits");
    const auto take = [this, &option, job, mean](const std::string& text) {
      const bool whole = text.find('.') == std::string::npos;
      if (!mean || whole) return option.parse(layer_, text);
      job->mean_bits = parse_number(text, 1.0, static_cast<double>(trellis::max_bits));
      layer_.bits = std::min(static_cast<int>(*job->mean_bits), 4);  // a width of all codebooks
    };
    const char* help = option.help.c_str();
    if (option.value_name == nullptr) {
      const auto flag = [take](bool on) { take(on ? "on" : "off"); };
      options.add_options()(option.name, po::bool_switch()->notifier(flag), help);
    } else {
      options.add_options()(
          option.name,
          value_of(option.name, option.value_name, take)->default_value(option.standard), help);
    }
  }
  options.add_options()("paper", po::bool_switch(&paper_),
                        "the paper's settings: --codebook scalar --rho 2.4 --clamp pre --transform "
                        "kronecker --output-scale off");
}

void LayerArguments::declare_for_model(po::options_description& options, QuantizeOptions& job) {
  declare(options, &job);
  options.add_options()(
      "mixed-bits", po::bool_switch(&mixed_),
      "take --bits for the mean over all weights, as a fraction like 2.5 is in any case: bits of "
      "each layer by how much the predictions suffer when it has fewer, measured on some of the "
      "calibration samples");
  const auto suit = [this, &job](const std::string& name) {
    engine_ = &engine(name);
    job.export_format = &export_format(engine_->format);
  };
  options.add_options()("for", value_of("for", "NAME", suit), help_on_engines().c_str());
  options.add_options()("skip", text(job.skip, "REGEX"),
                        "leave linears whose name matches as they are");
  const auto add = [&job](const std::vector<std::string>& rules) {
    for (const std::string& rule : rules) job.overrides.add(rule);
  };
  options.add_options()(
      "override",
      po::value<std::vector<std::string>>()->composing()->value_name("RULE")->notifier(add),
      "REGEX:option=value,... for the linears whose name matches, e.g. "
      "'down_proj:bits=4'; repeatable, a later rule wins");
  options.add_options()("true-sequential", po::bool_switch(&job.true_sequential),
                        "Hessians also see the quantized layers before them in their block");
  const auto target = [&job](const std::string& text) {
    static constexpr Names<std::optional<bool>, 3> names{
        {{std::nullopt, "auto"}, {false, "layer"}, {true, "stream"}}};
    const std::optional<bool> stream = parse_name(text, names);
    job.stream.on = stream.value_or(true);
    job.stream.where_useful = !stream;
  };
  options.add_options()(
      "target", value_of("target", "WHAT", target)->default_value("auto"),
      "round a layer to its own weights (layer), or to those that make up for what was lost before "
      "it (stream; implies --true-sequential); auto: stream, but layer with --paper and for models "
      "of which no layer could be moved");
  const auto share = [&options](const char* name, double& value, const char* help) {
    const auto take = [&value](const std::string& text) { value = parse_number(text, 0.0, 1.0); };
    options.add_options()(
        name, value_of(name, "SHARE", take)->default_value(fmt::format("{}", value)), help);
  };
  share("drift", job.stream.drift,
        "with --target stream: the share of the drift of its inputs that a layer makes up for");
  share("residual", job.stream.residual,
        "with --target stream: the share of the residual's error that a layer takes off which adds "
        "to it");
  const auto experts = [&job](const std::string& text) {
    static constexpr Names<ExpertHessians, 2> names{
        {{ExpertHessians::routed, "routed"}, {ExpertHessians::all, "all"}}};
    job.experts = parse_name(text, names);
  };
  options.add_options()(
      "experts", value_of("experts", "NAME", experts)->default_value("routed"),
      "make the Hessians of an expert's layers from the tokens that are routed to it (routed), or "
      "from all tokens (all)");
  const auto prior = [&job](const std::string& text) {
    job.expert_prior = parse_number(text, 0.0, 1e9);
  };
  options.add_options()(
      "expert-prior",
      value_of("expert-prior", "K", prior)->default_value(fmt::format("{}", job.expert_prior)),
      "move the Hessians of an expert with T tokens by K/(T+K) towards what all tokens give");
  const auto wide = [&job](const std::string& text) {
    job.wide.inputs = parse_number<index_t>(text);
  };
  options.add_options()(
      "wide", value_of("wide", "N", wide)->default_value(std::to_string(default_wide_inputs)),
      "from N inputs on, spread a layer's Hessian over all ranks; 0: always");
}

void declare_keep_states(po::options_description& options, QuantizeOptions& job) {
  static constexpr Names<std::optional<KeepStates>, 4> names{{{std::nullopt, "auto"},
                                                              {KeepStates::none, "none"},
                                                              {KeepStates::last, "last"},
                                                              {KeepStates::all, "all"}}};
  const auto take = [&job](const std::string& text) { job.keep_states = parse_name(text, names); };
  options.add_options()("keep-states",
                        value_of("keep-states", "WHICH", take)->default_value("auto"),
                        "hidden states on disk: none (resuming computes them again), last (until "
                        "the run is complete), all (for good) or auto (last if they are no larger "
                        "than the model, else none)");
}

void LayerArguments::settle_model(QuantizeOptions& job) const {
  if (mixed_ && !job.mean_bits) job.mean_bits = job.layer.bits;
  const StreamOptions standard;
  if (paper_ && job.stream.where_useful) job.stream.on = false;
  if (job.stream.on) return;
  if (job.stream.drift != standard.drift || job.stream.residual != standard.residual) {
    throw UsageError("--drift and --residual belong to --target stream");
  }
}

LayerOptions LayerArguments::options(const Command& command) const {
  LayerOptions layer = layer_;
  if (engine_ != nullptr) apply_engine(*engine_, command, layer);
  if (paper_) apply_paper(layer, command);
  check_together(layer);
  return layer;
}

std::vector<std::pair<std::string, std::string>> LayerArguments::settings(
    const LayerOptions& layer) {
  std::vector<std::pair<std::string, std::string>> table;
  for (const LayerOption& option : layer_options()) {
    if (option.in_force == nullptr) continue;
    std::string name = option.name;
    std::replace(name.begin(), name.end(), '-', ' ');
    const bool idle = option.misplaced != nullptr && !option.misplaced(layer).empty();
    table.emplace_back(std::move(name), idle ? "-" : text_of(option.in_force(layer)));
  }
  return table;
}

}  // namespace quip::cli
