#include "quip/pipeline/report.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <sys/resource.h>

#include <fmt/format.h>

namespace quip {

nlohmann::json gather_phases(Collectives& comm, const Phases& phases) {
  nlohmann::json out = nlohmann::json::object();
  for (const Phase& phase : phases.all()) {
    auto seconds = static_cast<float>(phase.seconds);
    comm.all_reduce_max(std::span(&seconds, 1));
    std::array<double, 2> sums{phase.flops, static_cast<double>(phase.bytes_sent)};
    comm.all_reduce_sum(sums);
    out[phase.name] = {{"seconds", seconds}, {"flops", sums[0]}, {"bytes_sent", sums[1]}};
  }
  return out;
}

std::vector<index_t> gather_peak_memory(Collectives& comm) {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  std::vector<double> peak(static_cast<std::size_t>(comm.size()), 0.0);
  peak[static_cast<std::size_t>(comm.rank())] = static_cast<double>(usage.ru_maxrss) * 1024.0;
  comm.all_reduce_sum(peak);
  return {peak.begin(), peak.end()};
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
