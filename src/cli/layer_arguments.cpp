#include "layer_arguments.hpp"

#include "command.hpp"

namespace quip::cli {

namespace po = boost::program_options;

namespace {

bool parse_switch(const char* option, const std::string& value) {
  if (value == "on") return true;
  if (value == "off") return false;
  throw UsageError(fmt::format("{} {}: must be on or off", option, value));
}

double parse_rho(const std::string& text) {
  std::size_t used = 0;
  double value = 0;
  try {
    value = std::stod(text, &used);
  } catch (const std::exception&) {
    used = 0;
  }
  if (used != text.size() || !(value > 0) || value > 1e6) {
    throw UsageError(fmt::format("--rho {}: must be auto or a positive number", text));
  }
  return value;
}

/// The order of columns in force, in words.
std::string order_name(const LayerOptions& layer) {
  switch (layer.method) {
    case Method::nearest:
      return "-";
    case Method::ldlq:
      return to_string(layer.order.value_or(ColumnOrder::backward));
    case Method::optq:
      return layer.act_order ? "descending diag(H)" : "forward";
    default:
      return "diag(H)";
  }
}

std::string group_name(const LayerOptions& layer) {
  if (layer.group_size == 0) return "-";
  return fmt::format("{}, {}", layer.group_size, to_string(layer.effective_groups()));
}

}  // namespace

void LayerArguments::declare(po::options_description& options) {
  options.add_options()("bits", po::value(&bits_)->default_value(2)->value_name("N"),
                        "bits per weight: 2, 3, 4 or 8");
  options.add_options()("method", po::value(&method_)->default_value("ldlq")->value_name("NAME"),
                        "nearest, ldlq, optq, ldlq-rg, greedy or ldl-admm");
  options.add_options()(
      "processing", po::value(&processing_)->default_value("incoherence")->value_name("NAME"),
      "incoherence (--rescale on --transform kronecker --grid incoherent) or baseline (--rescale "
      "off --transform none --grid minmax); each step may be set on its own");
  options.add_options()("rescale", po::value(&rescale_)->value_name("on|off"),
                        "scale each input channel by (H_jj / (W'W)_jj)^(1/4) first");
  options.add_options()("transform", po::value(&transform_)->value_name("NAME"),
                        "random orthogonal transform: kronecker, kronecker-blocked, "
                        "kronecker-nopermute, hadamard, dense (small layers) or none");
  options.add_options()("grid", po::value(&grid_)->value_name("NAME"),
                        "levels: incoherent (one per layer) or minmax (per row or group)");
  options.add_options()("group-size",
                        po::value(&group_size_)->default_value(0, "row")->value_name("N"),
                        "min-max grid: input channels that share a scale, 8 or more");
  options.add_options()("groups", po::value(&groups_)->value_name("NAME"),
                        "fit the grids of groups before rounding (static), or when optq reaches "
                        "them (dynamic); default: dynamic for optq without --act-order or --clamp "
                        "pre, else static");
  options.add_options()("symmetric", po::bool_switch(&symmetric_),
                        "min-max grid with zero in its middle");
  options.add_options()("rho", po::value(&rho_)->default_value("auto")->value_name("X"),
                        "half width of the grid over rms(W), or auto: searched per layer");
  options.add_options()("clamp", po::value(&clamp_)->default_value("feedback")->value_name("NAME"),
                        "cut weights beyond the grid while rounding (feedback) or before (pre)");
  options.add_options()("paper", po::bool_switch(&paper_),
                        "the paper's settings: --rho 2.4 --clamp pre");
  options.add_options()("order", po::value(&order_)->default_value("backward")->value_name("NAME"),
                        "columns of ldlq: from the last (backward) or the first (forward)");
  options.add_options()("act-order", po::bool_switch(&act_order_),
                        "columns of optq by descending diagonal of the Hessian");
  options.add_options()("rounding",
                        po::value(&rounding_)->default_value("nearest")->value_name("NAME"),
                        "nearest, or stochastic (unbiased)");
  options.add_options()("passes", po::value(&passes_)->default_value(-1, "auto")->value_name("N"),
                        "greedy passes: 5 for ldlq-rg and greedy, 0 after ldlq and ldl-admm");
  options.add_options()("damp", po::value(&damp_)->default_value(0.01, "0.01")->value_name("X"),
                        "damping added to the Hessian, relative to its mean diagonal");
  options.add_options()("seed", po::value(&seed_)->default_value(0)->value_name("S"),
                        "seed of the random transforms");
  options.add_options()("statistics", po::bool_switch(&spectra_),
                        "also decompose every Hessian: ranks and mu_H in the report (slow: some 18 "
                        "n^3 flops a layer)");
}

LayerOptions LayerArguments::options(const Given& given) const {
  LayerOptions layer;
  layer.bits = bits_;
  if (bits_ != 2 && bits_ != 3 && bits_ != 4 && bits_ != 8) {
    throw UsageError(fmt::format("--bits {}: must be 2, 3, 4 or 8", bits_));
  }
  layer.method = parse_method(method_);
  layer.processing = parse_processing(processing_);
  if (given("transform")) layer.transform = parse_transform(transform_);
  if (given("rescale")) layer.rescaling = parse_switch("--rescale", rescale_);
  if (given("grid")) layer.grid_kind = parse_grid(grid_);
  layer.group_size = group_size_;
  if (given("group-size") && group_size_ < 1) {
    throw UsageError(fmt::format("--group-size {}: must be 8 or more", group_size_));
  }
  if (given("groups")) layer.groups = parse_group_fit(groups_);
  layer.symmetric = symmetric_;
  if (rho_ != "auto") layer.rho = parse_rho(rho_);
  layer.clamp = parse_clamp(clamp_);
  if (given("order")) layer.order = parse_order(order_);
  layer.rounding = parse_rounding(rounding_);
  layer.act_order = act_order_;
  layer.seed = seed_;
  layer.spectra = spectra_;
  layer.damping = damp_;
  if (!(damp_ >= 0) || damp_ > 1e6) {
    throw UsageError(fmt::format("--damp {}: must not be negative", damp_));
  }
  if (given("passes")) layer.passes = passes_;
  if (paper_) apply_paper(layer, given);
  LayerOptions asked = layer;
  if (given("rho") && !layer.rho) asked.rho = 1.0;  // `auto` leaves no trace in the options
  check_together(asked);
  return layer;
}

void LayerArguments::apply_paper(LayerOptions& layer, const Given& given) const {
  for (const char* fixed : {"rho", "clamp"}) {
    if (given(fixed)) {
      throw UsageError(fmt::format("--paper sets --{0} itself: leave out one of the two", fixed));
    }
  }
  if (layer.grid() == GridKind::incoherent) layer.rho = 2.4;
  // The authors' OPTQ sees the weights as they are.
  layer.clamp = layer.method == Method::optq ? Clamp::feedback : Clamp::pre;
}

std::vector<std::pair<std::string, std::string>> LayerArguments::settings(
    const LayerOptions& layer) {
  const bool grid = layer.grid() == GridKind::incoherent;
  return {{"bits", std::to_string(layer.bits)},
          {"method", to_string(layer.method)},
          {"processing", to_string(layer.processing)},
          {"rescale", layer.rescale() ? "on" : "off"},
          {"transform", to_string(layer.effective_transform())},
          {"grid", to_string(layer.grid()) + (layer.symmetric ? ", symmetric" : "")},
          {"group size", group_name(layer)},
          {"rho", !grid ? "-" : (layer.rho ? fmt::format("{}", *layer.rho) : "auto")},
          {"clamp", to_string(layer.clamp)},
          {"order", order_name(layer)},
          {"rounding", to_string(layer.rounding)},
          {"passes", std::to_string(layer.effective_passes())},
          {"damp", fmt::format("{}", layer.damping)},
          {"seed", std::to_string(layer.seed)}};
}

}  // namespace quip::cli
