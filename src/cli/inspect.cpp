#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <numeric>

#include "command.hpp"
#include <nlohmann/json.hpp>

#include "quip/pipeline/report.hpp"
#include "quip/store/packed_writer.hpp"

namespace quip::cli {
namespace {

class InspectCommand final : public Command {
 public:
  InspectCommand() : Command("inspect", "Show what a packed model holds; check its digests.") {
    options_.add_options()("packed", text(packed_, "DIR")->required(),
                           "packed model (the option's name may be left out)");
    options_.add_options()("json", po::bool_switch(&json_), "print JSON");
    options_.add_options()("verify", po::bool_switch(&verify_),
                           "read everything and check digests");
    options_.add_options()("statistics", po::bool_switch(&statistics_),
                           "show what is known of weights and Hessians");
    positional_.add("packed", 1);
  }

  [[nodiscard]] bool parallel() const override { return false; }

  int run(Collectives& /*comm*/, int /*node_size*/) override {
    const PackedModel model(packed_);
    std::vector<std::string> problems;
    if (verify_) problems = model.verify();
    if (!problems.empty()) {
      for (const std::string& problem : problems)
        fmt::print(stderr, "quip: damaged: {}\n", problem);
      fail("{}: {} part{} not match the recorded digests; mend with quip quantize --repair",
           packed_, problems.size(), problems.size() == 1 ? " does" : "s do");
    }
    nlohmann::json layers = nlohmann::json::array();
    for (const BlockEntry& block : model.blocks()) {
      for (const std::string& name : block.layers)
        layers.push_back(to_json(model.read_layer(name)));
    }
    if (json_) {
      nlohmann::json out = {{"digest", model.digest()},
                            {"options", model.manifest().at("options")},
                            {"bytes", model.bytes_on_disk()},
                            {"bits_per_weight", totals_of(layers).bits_per_weight()},
                            {"mean_relative_proxy_loss", totals_of(layers).mean_loss},
                            {"layers", std::move(layers)}};
      if (verify_) out["verified"] = true;
      fmt::print("{}\n", out.dump());
    } else {
      print_model(model, totals_of(layers));
      statistics_ ? print_statistics(layers) : print_layers(layers);
      if (verify_) fmt::print("\nevery digest matches\n");
    }
    return EXIT_SUCCESS;
  }

 private:
  static void print_model(const PackedModel& model, const LayerTotals& totals) {
    fmt::print("{}",
               settings_table({{"digest", model.digest()},
                               {"size", human_bytes(static_cast<double>(model.bytes_on_disk()))},
                               {"bits per weight", decimals(totals.bits_per_weight(), 3)},
                               {"mean loss", decimals(totals.mean_loss, 6)}}));
    for (const auto& [name, value] : model.manifest().at("options").items()) {
      fmt::print("  {:<14} {}\n", name,
                 value.is_string() ? value.get<std::string>() : value.dump());
    }
  }

  /// Prints a line for each layer: its name, and what `row` says of it below `header`.
  static void print_table(const nlohmann::json& layers, const std::string& header,
                          const std::function<std::string(const nlohmann::json&)>& row) {
    std::size_t width = std::string("layer").size();
    for (const auto& layer : layers) {
      width = std::max(width, layer.at("name").get<std::string>().size());
    }
    fmt::print("\n{:<{}} {}\n", "layer", width, header);
    for (const auto& layer : layers) {
      fmt::print("{:<{}} {}\n", layer.at("name").get<std::string>(), width, row(layer));
    }
    fmt::print("\n");
  }

  /// The layers of the same kind of a block's experts.
  struct ExpertLayers {
    std::string name;  ///< with a star in place of the expert's number
    nlohmann::json first;
    std::vector<double> losses;
    std::vector<double> tokens;
  };

  /// Returns "least to most (mean)" of what is not NaN.
  static std::string spread(std::vector<double> values, int digits) {
    std::erase_if(values, [](double value) { return std::isnan(value); });
    if (values.empty()) return "-";
    const auto [least, most] = std::ranges::minmax(values);
    const double mean =
        std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
    return fmt::format("{:.{}f} to {:.{}f} ({:.{}f})", least, digits, most, digits, mean, digits);
  }

  /// Prints a line for the layers of each kind of a block's experts.
  static void print_experts(const nlohmann::json& layers) {
    std::vector<ExpertLayers> kinds;
    std::size_t width = std::string("layers of experts").size();
    for (const auto& layer : layers) {
      if (!layer.contains("tokens")) continue;
      const std::string name = layer.at("name");
      const std::size_t type = name.rfind('.');
      const std::size_t number = name.rfind('.', type - 1);
      const std::string kind = name.substr(0, number + 1) + "*" + name.substr(type);
      auto found = std::ranges::find(kinds, kind, &ExpertLayers::name);
      if (found == kinds.end()) {
        kinds.push_back({kind, layer, {}, {}});
        found = std::prev(kinds.end());
      }
      found->losses.push_back(number_or_nan(layer.at("relative_proxy_loss")));
      found->tokens.push_back(layer.at("tokens").get<double>());
      width = std::max(width, kind.size());
    }
    if (kinds.empty()) return;
    fmt::print("{:<{}} {:>7} {:>13} {:>4} {:>34} {:>28}\n", "layers of experts", width, "experts",
               "shape", "bits", "rel. loss", "tokens");
    for (const ExpertLayers& kind : kinds) {
      fmt::print("{:<{}} {:>7} {:>13} {:>4} {:>34} {:>28}\n", kind.name, width, kind.losses.size(),
                 fmt::format("{}x{}", kind.first.at("rows").get<index_t>(),
                             kind.first.at("cols").get<index_t>()),
                 kind.first.at("bits").get<int>(), spread(kind.losses, 6), spread(kind.tokens, 0));
    }
    fmt::print("\n");
  }

  static void print_layers(const nlohmann::json& layers) {
    const std::string header = fmt::format("{:>13} {:>4} {:>10} {:>8} {:>6}", "shape", "bits",
                                           "rel. loss", "trD/trH", "rho");
    nlohmann::json dense = nlohmann::json::array();
    for (const auto& layer : layers) {
      if (!layer.contains("tokens")) dense.push_back(layer);
    }
    if (!dense.empty()) {
      print_table(dense, header, [](const nlohmann::json& layer) {
        return fmt::format(
            "{:>13} {:>4} {:>10} {:>8.4f} {:>6.3f}",
            fmt::format("{}x{}", layer.at("rows").get<index_t>(), layer.at("cols").get<index_t>()),
            layer.at("bits").get<int>(),
            decimals(number_or_nan(layer.at("relative_proxy_loss")), 6),
            layer.at("trace_ratio").get<double>(), layer.at("rho").get<double>());
      });
    }
    print_experts(layers);
    fmt::print("{}", remarks_on(layers));
  }

  /// Shows values before → after rescaling and transform; ranks are shares of n.
  static void print_statistics(const nlohmann::json& layers) {
    const auto both = [](const nlohmann::json& layer, const std::string& name, int digits) {
      if (!layer.contains(name + "_before")) return std::string("-");
      return fmt::format("{:.{}f} -> {:.{}f}", layer.at(name + "_before").get<double>(), digits,
                         layer.at(name + "_after").get<double>(), digits);
    };
    constexpr auto* columns = "{:>8} {:>8} {:>14} {:>14} {:>16} {:>16}";
    const std::string header =
        fmt::format(columns, "trD/trH", "x limit", "mu W", "mu H", "rank H", "rank H at 0.01");
    bool complete = true;
    print_table(layers, header, [&](const nlohmann::json& layer) {
      complete = complete && layer.contains("mu_h_before");
      return fmt::format(columns, decimals(layer.at("trace_ratio").get<double>(), 4),
                         decimals(number_or_nan(layer.at("rate_distortion_ratio")), 3),
                         both(layer, "mu_w", 2), both(layer, "mu_h", 2), both(layer, "rank", 3),
                         both(layer, "rank_1pct", 3));
    });
    fmt::print(
        "trD/trH: of the damped H; x limit: loss over the rate-distortion bound ||W||^2/n trD "
        "4^-bits\n");
    if (!complete) fmt::print("ranks and mu H: quantize with --statistics to have them\n");
  }

  std::string packed_;
  bool json_ = false;
  bool verify_ = false;
  bool statistics_ = false;
};

}  // namespace

std::unique_ptr<Command> make_inspect_command() { return std::make_unique<InspectCommand>(); }

}  // namespace quip::cli
