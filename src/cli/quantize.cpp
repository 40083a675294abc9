#include "quip/pipeline/quantize.hpp"

#include "command.hpp"
#include <fmt/ranges.h>

#include "quip/pipeline/report.hpp"

namespace quip::cli {
namespace {

namespace po = boost::program_options;

bool parse_switch(const char* option, const std::string& value) {
  if (value == "on") return true;
  if (value == "off") return false;
  throw UsageError(fmt::format("{} {}: must be on or off", option, value));
}

class QuantizeCommand final : public Command {
 public:
  QuantizeCommand() : Command("quantize", "Quantize a Hugging Face checkpoint to a packed model.") {
    options_.add_options()("model", po::value(&model_)->required()->value_name("DIR"),
                           "Hugging Face directory: config.json, safetensors");
    options_.add_options()("tokens", po::value(&tokens_)->required()->value_name("FILE"),
                           "calibration tokens: HDF5 with input_ids [samples, length]");
    options_.add_options()("out", po::value(&out_)->required()->value_name("DIR"),
                           "output directory: new or empty");
    options_.add_options()("bits", po::value(&bits_)->default_value(2)->value_name("N"),
                           "bits per weight: 2, 3, 4 or 8");
    options_.add_options()("method", po::value(&method_)->default_value("ldlq")->value_name("NAME"),
                           "nearest, ldlq, optq, ldlq-rg, greedy or ldl-admm");
    options_.add_options()(
        "processing", po::value(&processing_)->default_value("incoherence")->value_name("NAME"),
        "incoherence (--rescale on --transform kronecker --grid incoherent) or baseline (--rescale "
        "off --transform none --grid minmax); each step may be set on its own");
    options_.add_options()("rescale", po::value(&rescale_)->value_name("on|off"),
                           "scale each input channel by (H_jj / (W'W)_jj)^(1/4) first");
    options_.add_options()("transform", po::value(&transform_)->value_name("NAME"),
                           "random orthogonal transform: kronecker, kronecker-blocked, "
                           "kronecker-nopermute, hadamard, dense (small layers) or none");
    options_.add_options()("grid", po::value(&grid_)->value_name("NAME"),
                           "levels: incoherent (one per layer) or minmax (per row or group)");
    options_.add_options()(
        "group-size", po::value(&job_.layer.group_size)->default_value(0, "row")->value_name("N"),
        "min-max grid: input channels that share a scale, 8 or more");
    options_.add_options()("symmetric", po::bool_switch(&job_.layer.symmetric),
                           "min-max grid with zero in its middle");
    options_.add_options()("rho", po::value(&rho_)->default_value("auto")->value_name("X"),
                           "half width of the grid over rms(W), or auto: searched per layer");
    options_.add_options()("clamp",
                           po::value(&clamp_)->default_value("feedback")->value_name("NAME"),
                           "cut weights beyond the grid while rounding (feedback) or before (pre)");
    options_.add_options()("paper", po::bool_switch(&paper_),
                           "the paper's settings: --rho 2.4 --clamp pre");
    options_.add_options()("order",
                           po::value(&order_)->default_value("backward")->value_name("NAME"),
                           "columns of ldlq: from the last (backward) or the first (forward)");
    options_.add_options()("act-order", po::bool_switch(&act_order_),
                           "columns of optq by descending diagonal of the Hessian");
    options_.add_options()("rounding",
                           po::value(&rounding_)->default_value("nearest")->value_name("NAME"),
                           "nearest, or stochastic (unbiased)");
    options_.add_options()("passes",
                           po::value(&passes_)->default_value(-1, "auto")->value_name("N"),
                           "greedy passes: 5 for ldlq-rg and greedy, 0 after ldlq and ldl-admm");
    options_.add_options()("damp", po::value(&damp_)->default_value(0.01, "0.01")->value_name("X"),
                           "damping added to the Hessian, relative to its mean diagonal");
    options_.add_options()("samples",
                           po::value(&samples_)->default_value(0, "all")->value_name("N"),
                           "use the first N samples of the token set");
    options_.add_options()("seed", po::value(&seed_)->default_value(0)->value_name("S"),
                           "seed of the random transforms");
    options_.add_options()("skip", po::value(&skip_)->default_value("")->value_name("REGEX"),
                           "leave linears whose name matches as they are");
    options_.add_options()("override", po::value(&overrides_)->composing()->value_name("RULE"),
                           "REGEX:option=value,... for the linears whose name matches, e.g. "
                           "'down_proj:bits=4'; repeatable, a later rule wins");
    options_.add_options()("true-sequential", po::bool_switch(&job_.true_sequential),
                           "Hessians also see the quantized layers before them in their block");
    options_.add_options()("threads",
                           po::value(&threads_)->default_value(0, "auto")->value_name("N"),
                           "OpenMP threads per rank");
    options_.add_options()("backend",
                           po::value(&backend_)->default_value("auto")->value_name("NAME"),
                           "auto, cpu or cuda");
    options_.add_options()("progress",
                           po::value(&progress_)->default_value("auto")->value_name("STYLE"),
                           "auto, bar, lines or none");
    options_.add_options()("config", po::value<std::string>()->value_name("FILE"),
                           "more options, one `name=value` a line; the command line wins");
  }

  void check() override {
    LayerOptions& layer = job_.layer;
    layer.bits = bits_;
    if (bits_ != 2 && bits_ != 3 && bits_ != 4 && bits_ != 8) {
      throw UsageError(fmt::format("--bits {}: must be 2, 3, 4 or 8", bits_));
    }
    layer.method = parse_method(method_);
    layer.processing = parse_processing(processing_);
    if (given("transform")) layer.transform = parse_transform(transform_);
    if (given("rescale")) layer.rescaling = parse_switch("--rescale", rescale_);
    if (given("grid")) layer.grid_kind = parse_grid(grid_);
    layer.clamp = parse_clamp(clamp_);
    layer.order = parse_order(order_);
    layer.rounding = parse_rounding(rounding_);
    layer.act_order = act_order_;
    layer.seed = seed_;
    layer.damping = damp_;
    if (!(damp_ >= 0) || damp_ > 1e6) {
      throw UsageError(fmt::format("--damp {}: must not be negative", damp_));
    }
    if (given("samples") && samples_ < 1) {
      throw UsageError(fmt::format("--samples {}: must be positive", samples_));
    }
    if (threads_ < 0) throw UsageError(fmt::format("--threads {}: must be positive", threads_));
    static_cast<void>(parse_progress(progress_));
    check_rho();
    check_method();
    check_combinations();
    for (const std::string& rule : overrides_) job_.overrides.add(rule);
    job_.model = model_;
    job_.tokens = tokens_;
    job_.out = out_;
    job_.samples = samples_;
    job_.skip = skip_;
  }

  int run(Collectives& comm, int node_size) override {
    const int threads = choose_threads(threads_, node_size);
    std::unique_ptr<Backend> backend;
    agree(comm, [&] { backend = make_backend(backend_, threads); });
    if (comm.rank() == 0) {
      fmt::print("quip {} quantize\n{}", QUIP_VERSION,
                 settings_table(settings(*backend, comm.size(), threads)));
      std::fflush(stdout);
    }
    Progress progress(parse_progress(progress_), comm.rank());
    const nlohmann::json report = quantize(comm, *backend, job_, threads, progress);
    if (comm.rank() == 0) {
      fmt::print("{}  written to        {}\n", summary_table(report), out_);
    }
    return EXIT_SUCCESS;
  }

 private:
  void check_rho() {
    if (rho_ == "auto") return;
    std::size_t used = 0;
    double value = 0;
    try {
      value = std::stod(rho_, &used);
    } catch (const std::exception&) {
      used = 0;
    }
    if (used != rho_.size() || !(value > 0) || value > 1e6) {
      throw UsageError(fmt::format("--rho {}: must be auto or a positive number", rho_));
    }
    job_.layer.rho = value;
  }

  void check_method() {
    LayerOptions& layer = job_.layer;
    if (given("order") && layer.method != Method::ldlq) {
      throw UsageError(fmt::format(
          "--order belongs to --method ldlq, --method {} has its own: leave out one of the two",
          method_));
    }
    if (act_order_ && layer.method != Method::optq) {
      throw UsageError(fmt::format(
          "--act-order belongs to --method optq, not to --method {}: leave out one of the two",
          method_));
    }
    if (given("passes")) {
      if (!takes_passes(layer.method)) {
        throw UsageError(fmt::format(
            "--passes: --method {} has no greedy passes: leave out one of the two", method_));
      }
      const int fewest = layer.method == Method::greedy ? 1 : 0;
      if (passes_ < fewest || passes_ > 1000) {
        throw UsageError(fmt::format("--passes {}: must be {} to 1000 for --method {}", passes_,
                                     fewest, method_));
      }
      layer.passes = passes_;
    }
    if (layer.rounding == Rounding::stochastic && layer.effective_passes() > 0) {
      throw UsageError(fmt::format(
          "--rounding stochastic: greedy passes would undo it; use --passes 0 or a --method "
          "other than {}",
          method_));
    }
  }

  void check_combinations() {
    LayerOptions& layer = job_.layer;
    if (paper_) {
      for (const char* fixed : {"rho", "clamp"}) {
        if (given(fixed)) {
          throw UsageError(
              fmt::format("--paper sets --{0} itself: leave out one of the two", fixed));
        }
      }
      layer.rho = 2.4;
      // The authors' OPTQ sees the weights as they are.
      layer.clamp = layer.method == Method::optq ? Clamp::feedback : Clamp::pre;
    }
    check_grid(layer.grid());
  }

  /// Options of one kind of grid are refused with the other; the message names what chose it.
  void check_grid(GridKind grid) const {
    const std::string chosen = given("grid") ? "--grid " + grid_ : "--processing " + processing_;
    const auto refuse = [&](const char* option, GridKind wanted) {
      if (given(option) && grid != wanted) {
        throw UsageError(fmt::format(
            "--{} belongs to --grid {} and does not go with {}: leave out one of the two", option,
            to_string(wanted), chosen));
      }
    };
    refuse("rho", GridKind::incoherent);
    if (job_.layer.symmetric) refuse("symmetric", GridKind::minmax);
    refuse("group-size", GridKind::minmax);
    const index_t size = job_.layer.group_size;
    if (given("group-size") && (size < 8 || size > index_t{1} << 24)) {
      throw UsageError(fmt::format("--group-size {}: must be 8 or more", size));
    }
  }

  /// The order of columns in force, in words.
  static std::string order_name(const LayerOptions& layer) {
    switch (layer.method) {
      case Method::nearest:
        return "-";
      case Method::ldlq:
        return to_string(layer.order);
      case Method::optq:
        return layer.act_order ? "descending diag(H)" : "forward";
      default:
        return "diag(H)";
    }
  }

  [[nodiscard]] std::vector<std::pair<std::string, std::string>> settings(const Backend& backend,
                                                                          int ranks,
                                                                          int threads) const {
    const LayerOptions& layer = job_.layer;
    const bool grid = layer.grid() == GridKind::incoherent;
    return {{"model", model_},
            {"tokens", tokens_},
            {"samples", samples_ == 0 ? "all" : std::to_string(samples_)},
            {"out", out_},
            {"bits", std::to_string(layer.bits)},
            {"method", to_string(layer.method)},
            {"processing", to_string(layer.processing)},
            {"rescale", layer.rescale() ? "on" : "off"},
            {"transform", to_string(layer.effective_transform())},
            {"grid", to_string(layer.grid()) + (layer.symmetric ? ", symmetric" : "")},
            {"group size", layer.group_size == 0 ? "-" : std::to_string(layer.group_size)},
            {"rho", !grid ? "-" : (layer.rho ? fmt::format("{}", *layer.rho) : "auto")},
            {"clamp", to_string(layer.clamp)},
            {"order", order_name(layer)},
            {"rounding", to_string(layer.rounding)},
            {"passes", std::to_string(layer.effective_passes())},
            {"damp", fmt::format("{}", layer.damping)},
            {"seed", std::to_string(layer.seed)},
            {"skip", skip_.empty() ? "-" : skip_},
            {"override", overrides_.empty() ? "-" : fmt::format("{}", fmt::join(overrides_, " "))},
            {"sequential", job_.true_sequential ? "layers" : "blocks"},
            {"backend", backend.describe()},
            {"ranks", std::to_string(ranks)},
            {"threads", std::to_string(threads)}};
  }

  QuantizeOptions job_;
  std::string model_;
  std::string tokens_;
  std::string out_;
  int bits_ = 2;
  std::string method_;
  std::string processing_;
  std::string rescale_;
  std::string transform_;
  std::string order_;
  std::string rounding_;
  bool act_order_ = false;
  int passes_ = -1;
  std::string grid_;
  std::string rho_;
  std::string clamp_;
  bool paper_ = false;
  double damp_ = 0.01;
  index_t samples_ = 0;
  std::uint64_t seed_ = 0;
  std::string skip_;
  std::vector<std::string> overrides_;
  int threads_ = 0;
  std::string backend_;
  std::string progress_;
};

}  // namespace

std::unique_ptr<Command> make_quantize_command() { return std::make_unique<QuantizeCommand>(); }

}  // namespace quip::cli
