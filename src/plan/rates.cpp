#include "quip/plan/rates.hpp"

#include <algorithm>
#include <fstream>
#include <sstream>

#include "quip/core/error.hpp"
#include "quip/io/json.hpp"

namespace quip::plan {
namespace {

using nlohmann::json;

/// The fields of a rates file, by their names joined with dots.
class RatesFile {
 public:
  explicit RatesFile(const std::filesystem::path& file) : name_(file.string()) {
    std::ifstream stream(file);
    if (!stream) fail("--rates {}: cannot open; measure them with quip plan --calibrate", name_);
    std::ostringstream text;
    text << stream.rdbuf();
    document_ = parse_json(text.str(), name_);
  }

  /// Returns the value at `path`, or null if there is none.
  [[nodiscard]] const json* find(const std::string& path) const {
    const json* value = &document_;
    for (std::size_t begin = 0; begin <= path.size();) {
      if (!value->is_object()) {
        fail("{}: {} is not an object", name_, begin == 0 ? "it" : path.substr(0, begin - 1));
      }
      const std::size_t end = std::min(path.find('.', begin), path.size());
      const auto found = value->find(path.substr(begin, end - begin));
      if (found == value->end()) return nullptr;
      value = &*found;
      begin = end + 1;
    }
    return value;
  }

  /// Returns a number that is not negative, and unless `zero` allows it not 0.
  [[nodiscard]] double number(const std::string& path, bool zero = false) const {
    const json* value = find(path);
    if (value == nullptr) {
      fail("{}: has no field {}; write it with quip plan --calibrate --rates FILE", name_, path);
    }
    const double number = value->is_number() ? value->get<double>() : -1.0;
    if (number < 0 || (!zero && number == 0)) {
      fail("{}: {} is {}; it must be a{} number", name_, path, shown(*value),
           zero ? " non-negative" : " positive");
    }
    return number;
  }

 private:
  json document_;
  std::string name_;
};

}  // namespace

double transferred_bytes(Exchange kind, double payload, int size) {
  const double once = payload * (size - 1) / size;
  return kind == Exchange::gather ? once : 2 * once;
}

json to_json(const Rates& rates) {
  json out = {{"machine", rates.machine},
              {"ranks", rates.ranks},
              {"ranks_per_node", rates.ranks_per_node},
              {"baseline_bytes", rates.baseline_bytes},
              {"read_bandwidth", rates.read_bandwidth},
              {"write_bandwidth", rates.write_bandwidth},
              {"durable_seconds", rates.durable_seconds}};
  for (const auto& [phase, flops] : rates.host) out["host"][phase] = {{"flops", flops}};
  for (const auto& [phase, flops] : rates.device) out["device"][phase] = {{"flops", flops}};
  for (const auto& [kind, link] : rates.links) {
    out["links"][kind] = {{"latency", link.latency}, {"bandwidth", link.bandwidth}};
  }
  return out;
}

Rates read_rates(const std::filesystem::path& file) {
  const RatesFile fields(file);
  Rates rates;
  const json* machine = fields.find("machine");
  if (machine != nullptr && machine->is_string()) rates.machine = *machine;
  rates.ranks = static_cast<int>(fields.number("ranks"));
  rates.ranks_per_node = static_cast<int>(fields.number("ranks_per_node"));
  rates.baseline_bytes = static_cast<index_t>(fields.number("baseline_bytes"));
  rates.read_bandwidth = fields.number("read_bandwidth");
  rates.write_bandwidth = fields.number("write_bandwidth");
  rates.durable_seconds = fields.number("durable_seconds", true);
  for (const std::string& phase : computing_phases) {
    const bool on_device = fields.find("device." + phase) != nullptr;
    if (on_device) rates.device[phase] = fields.number("device." + phase + ".flops");
    if (on_device && fields.find("host." + phase) == nullptr) continue;
    rates.host[phase] = fields.number("host." + phase + ".flops");
  }
  if (fields.find("links") == nullptr) return rates;
  for (const Exchange kind : all_exchanges) {
    const std::string link = fmt::format("links.{}.", to_string(kind));
    rates.links[to_string(kind)] = {fields.number(link + "latency", true),
                                    fields.number(link + "bandwidth")};
  }
  return rates;
}

}  // namespace quip::plan
