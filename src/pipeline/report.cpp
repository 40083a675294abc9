#include "quip/pipeline/report.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <sys/resource.h>
#include <unistd.h>
#include <utility>

#include <fmt/format.h>

namespace quip {

namespace {

using nlohmann::json;

std::string host_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown";
}

json phase_report(const Phase& phase) {
  return {{"seconds", phase.seconds},
          {"flops", phase.usage.flops},
          {"bytes_sent", phase.usage.bytes_sent},
          {"bytes_read", phase.usage.bytes_read},
          {"bytes_written", phase.usage.bytes_written},
          {"communication_seconds", phase.usage.communication_seconds}};
}

/// This rank's entry, and its part of the timeline.
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

/// One phase over all ranks; a rank that never was in it did nothing there.
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

/// Seconds of `phase` in collectives; 0 for a rank that never was in it.
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

}  // namespace

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

std::string summary_table(const nlohmann::json& report) {
  struct Group {
    int layers = 0;
    double sum = 0;
    double worst = 0;
  };
  std::vector<std::string> order;
  std::map<std::string, Group> groups;
  for (const auto& layer : report.at("layers")) {
    const std::string name = layer.at("name");
    const std::string type = name.substr(name.rfind('.') + 1);
    if (!groups.contains(type)) order.push_back(type);
    Group& group = groups[type];
    const double loss = layer.at("relative_proxy_loss");
    ++group.layers;
    group.sum += loss;
    group.worst = std::max(group.worst, loss);
  }
  std::string out = fmt::format("\n  {:<14} {:>7} {:>22} {:>10}\n", "layer type", "layers",
                                "relative proxy loss", "worst");
  for (const std::string& type : order) {
    const Group& group = groups[type];
    out += fmt::format("  {:<14} {:>7} {:>22.5f} {:>10.5f}\n", type, group.layers,
                       group.sum / group.layers, group.worst);
  }
  out += fmt::format("  {:<14} {:>7} {:>22.5f}\n", "all", report.at("layers").size(),
                     report.at("mean_relative_proxy_loss").get<double>());
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
