#include "quip/pipeline/report.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <sys/resource.h>
#include <utility>

#include "io/directory_lock.hpp"
#include <fmt/format.h>

namespace quip {
namespace {

using nlohmann::json;

json phase_report(const Phase& phase) {
  return {{"seconds", phase.seconds},
          {"flops", phase.usage.flops},
          {"bytes_sent", phase.usage.bytes_sent},
          {"bytes_read", phase.usage.bytes_read},
          {"bytes_written", phase.usage.bytes_written},
          {"communication_seconds", phase.usage.communication_seconds}};
}

/// Returns this rank's entry, and its part of the timeline.
json rank_report(int rank, const Backend& backend, Phases& phases) {
  json by_name = json::object();
  double seconds = 0;
  Usage all;
  for (const Phase& phase : phases.all()) {
    by_name[phase.name] = phase_report(phase);
    seconds += phase.seconds;
    all += phase.usage;
  }
  json units = json::array();
  for (const Timeline::Unit& unit : phases.timeline().units()) {
    units.push_back({rank, unit.what, unit.start, unit.end});
  }
  json report = {{"rank", rank},
                 {"host", host_name()},
                 {"seconds", seconds},
                 {"communication_seconds", all.communication_seconds},
                 {"bytes_sent", all.bytes_sent},
                 {"peak_rss_bytes", peak_memory()},
                 {"phases", std::move(by_name)},
                 {"timeline", std::move(units)}};
  if (const auto memory = backend.memory()) report["peak_device_bytes"] = memory->most_used;
  return report;
}

/// Sums up one phase over all ranks; a rank that never was in it did nothing there.
json merge_phase(const std::vector<json>& ranks, const std::string& name) {
  double seconds = 0;
  double communication = 0;
  json sums = {{"flops", 0.0}, {"bytes_sent", 0}, {"bytes_read", 0}, {"bytes_written", 0}};
  for (const json& rank : ranks) {
    if (!rank.at("phases").contains(name)) continue;
    const json& phase = rank.at("phases").at(name);
    seconds = std::max(seconds, phase.at("seconds").get<double>());
    communication += phase.at("communication_seconds").get<double>();
    sums["flops"] = sums["flops"].get<double>() + phase.at("flops").get<double>();
    for (const char* bytes : {"bytes_sent", "bytes_read", "bytes_written"}) {
      sums[bytes] = sums[bytes].get<index_t>() + phase.at(bytes).get<index_t>();
    }
  }
  sums["seconds"] = seconds;
  sums["communication_seconds"] = communication / static_cast<double>(ranks.size());
  return sums;
}

/// Returns the seconds of `phase` in collectives; 0 for a rank that never was in it.
double communication_of(const json& rank, const std::string& phase) {
  const json& phases = rank.at("phases");
  return phases.contains(phase) ? phases.at(phase).at("communication_seconds").get<double>() : 0.0;
}

void add_idle_seconds(std::vector<json>& ranks, const json& phases) {
  for (json& rank : ranks) rank["idle_seconds"] = 0.0;
  for (const auto& item : phases.items()) {
    double fewest = communication_of(ranks[0], item.key());
    for (const json& rank : ranks) fewest = std::min(fewest, communication_of(rank, item.key()));
    for (json& rank : ranks) {
      const double before = rank["idle_seconds"].get<double>();
      rank["idle_seconds"] = before + communication_of(rank, item.key()) - fewest;
    }
  }
}

// With 64 samples the bundled models have 16 directions and more, and at most 18 times the median.
constexpr double fewest_directions = 4;
constexpr double largest_ratio_over_median = 20;
// An expert with fewer tokens than this part of its inputs is worth a remark.
constexpr double fewest_tokens_share = 8;
constexpr std::size_t worst_named = 3;

/// Layers with a number of each that belongs into a remark.
using Named = std::vector<std::pair<double, std::string>>;

/// Returns "label  a (0.12), b (0.11), ..." as a line, the largest number first.
std::string remark(const std::string& label, Named layers) {
  std::ranges::stable_sort(layers, std::greater(), &Named::value_type::first);
  std::string text;
  for (std::size_t i = 0; i < std::min(worst_named, layers.size()); ++i) {
    text += fmt::format("{}{} ({:.4g})", i == 0 ? "" : ", ", layers[i].second, layers[i].first);
  }
  if (layers.size() > worst_named) text += fmt::format(", of {} layers", layers.size());
  return fmt::format("  {} {}\n", label, text);
}

double median_of(const Named& layers) {
  std::vector<double> values;
  for (const auto& [value, name] : layers) values.push_back(value);
  const auto middle = values.begin() + std::ssize(values) / 2;
  if (!values.empty()) std::nth_element(values.begin(), middle, values.end());
  return values.empty() ? 0.0 : *middle;
}

}  // namespace

double number_or_nan(const json& value) {
  return value.is_number() ? value.get<double>() : std::numeric_limits<double>::quiet_NaN();
}

LayerTotals totals_of(const json& layers) {
  LayerTotals totals;
  int measured = 0;
  for (const json& layer : layers) {
    const double loss = number_or_nan(layer.at("relative_proxy_loss"));
    totals.weights += layer.at("rows").get<double>() * layer.at("cols").get<double>();
    totals.stored_bytes += layer.at("stored_bytes").get<double>();
    if (std::isnan(loss)) continue;
    totals.mean_loss += loss;
    ++measured;
  }
  totals.mean_loss /= measured;
  return totals;
}

std::string remarks_on(const json& layers) {
  Named losses;
  Named ratios;
  std::map<std::string, Named> warnings;
  for (const json& layer : layers) {
    const std::string name = layer.at("name");
    const double inputs = layer.at("cols").get<double>();
    const double dead = layer.at("dead_channels").get<double>();
    const double directions = number_or_nan(layer.value("directions", json()));
    if (layer.contains("unmeasured")) {
      const std::string reason = layer.at("unmeasured");
      warnings[fmt::format("no loss, {}; inputs:", reason)].emplace_back(inputs, name);
      continue;
    }
    losses.emplace_back(layer.at("relative_proxy_loss").get<double>(), name);
    ratios.emplace_back(layer.at("rate_distortion_ratio").get<double>(), name);
    if (const auto tokens = layer.find("tokens"); tokens != layer.end()) {
      const double routed = tokens->get<double>();
      if (routed == 0) {
        warnings["no token was routed to these experts, which all tokens stand in for:"]
            .emplace_back(routed, name);
      } else if (routed < inputs / fewest_tokens_share) {
        warnings["few tokens were routed to these experts (more --samples help):"].emplace_back(
            routed, name);
      }
    }
    if (dead > 0) warnings["dead inputs, zero on all calibration tokens:"].emplace_back(dead, name);
    if (directions < std::min(fewest_directions, inputs / 8)) {
      warnings["calibration tokens too much alike to judge losses by; directions they span:"]
          .emplace_back(directions, name);
    }
  }
  const double limit = largest_ratio_over_median * median_of(ratios);
  for (const auto& [ratio, name] : ratios) {
    if (ratio <= limit) continue;
    warnings["far more loss over the rate-distortion limit than other layers (more bits help):"]
        .emplace_back(ratio, name);
  }
  std::string out = losses.empty() ? "" : remark("worst layers:", std::move(losses));
  for (auto& [what, names] : warnings) out += remark(what, std::move(names));
  return out;
}

index_t peak_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<index_t>(usage.ru_maxrss) * 1024;
}

json usage_report(Collectives& comm, const Backend& backend, Phases& phases) {
  const std::string mine = rank_report(comm.rank(), backend, phases)
                               .dump(-1, ' ', false, json::error_handler_t::replace);
  std::vector<json> ranks;
  json timeline = json::array();
  json peaks = json::array();
  json device_peaks = json::array();
  json merged = json::object();
  for (const std::string& text : comm.gather(mine)) {
    json rank = json::parse(text);
    for (json& unit : rank.at("timeline")) timeline.push_back(std::move(unit));
    rank.erase("timeline");
    peaks.push_back(rank.at("peak_rss_bytes"));
    if (rank.contains("peak_device_bytes")) device_peaks.push_back(rank.at("peak_device_bytes"));
    for (const auto& item : rank.at("phases").items()) merged[item.key()] = nullptr;
    ranks.push_back(std::move(rank));
  }
  for (const auto& item : merged.items()) item.value() = merge_phase(ranks, item.key());
  add_idle_seconds(ranks, merged);
  json report = {{"phases", std::move(merged)},
                 {"rank_reports", std::move(ranks)},
                 {"timeline", std::move(timeline)},
                 {"peak_rss_bytes", std::move(peaks)}};
  if (!device_peaks.empty()) report["peak_device_bytes"] = std::move(device_peaks);
  return report;
}

std::string decimals(double value, int digits) {
  return std::isnan(value) ? "-" : fmt::format("{:.{}f}", value, digits);
}

std::string human_bytes(double bytes) {
  constexpr std::array units{"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  std::size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < units.size()) {
    bytes /= 1024;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", bytes, unit == 0 ? 0 : 1, units[unit]);
}

std::string settings_table(const std::vector<std::pair<std::string, std::string>>& settings) {
  std::string out;
  for (const auto& [name, value] : settings) out += fmt::format("  {:<14} {}\n", name, value);
  return out;
}

std::vector<TypeLosses> losses_by_type(const nlohmann::json& layers) {
  std::vector<TypeLosses> types;
  for (const auto& layer : layers) {
    const std::string name = layer.at("name");
    const std::string type =
        (layer.contains("tokens") ? "experts." : "") + name.substr(name.rfind('.') + 1);
    auto own = std::ranges::find(types, type, &TypeLosses::type);
    if (own == types.end()) {
      own = types.insert(own, {.type = type, .worst = std::numeric_limits<double>::quiet_NaN()});
    }
    own->layers.push_back(layer);
    own->worst = std::fmax(own->worst, number_or_nan(layer.at("relative_proxy_loss")));
  }
  for (TypeLosses& type : types) type.mean = totals_of(type.layers).mean_loss;
  return types;
}

std::string summary_table(const nlohmann::json& report) {
  const std::vector<TypeLosses> types = losses_by_type(report.at("layers"));
  std::size_t width = 14;
  for (const TypeLosses& type : types) width = std::max(width, type.type.size());
  std::string out = fmt::format("\n  {:<{}} {:>7} {:>22} {:>10}\n", "layer type", width, "layers",
                                "relative proxy loss", "worst");
  for (const TypeLosses& type : types) {
    out += fmt::format("  {:<{}} {:>7} {:>22} {:>10}\n", type.type, width, type.layers.size(),
                       decimals(type.mean, 5), decimals(type.worst, 5));
  }
  out += fmt::format("  {:<{}} {:>7} {:>22}\n\n", "all", width, report.at("layers").size(),
                     decimals(number_or_nan(report.at("mean_relative_proxy_loss")), 5));
  out += remarks_on(report.at("layers"));
  out += fmt::format("\n  {:<14} {:>9}\n", "phase", "seconds");
  for (const auto& [name, phase] : report.at("phases").items()) {
    out += fmt::format("  {:<14} {:>9.2f}\n", name, phase.at("seconds").get<double>());
  }
  out += fmt::format("  {:<14} {:>9.2f}\n", "total", report.at("seconds").get<double>());
  const auto& size = report.at("size");
  out += fmt::format(
      "\n  quantized layers  {} -> {} ({:.2f} bits per weight)\n  whole model       {} -> {}\n",
      human_bytes(size.at("linear_bytes_before")), human_bytes(size.at("linear_bytes_after")),
      size.at("bits_per_weight").get<double>(), human_bytes(size.at("bytes_before")),
      human_bytes(size.at("bytes_after")));
  return out;
}

}  // namespace quip
