#include "quip/plan/rates.hpp"

#include <fstream>
#include <sstream>

#include "quip/core/error.hpp"
#include "quip/io/json.hpp"

namespace quip::plan {
namespace {

using nlohmann::json;

/// Fields of a rates file, by name, with messages that say which is wrong.
class Fields {
 public:
  Fields(const json& object, std::string path, std::string file)
      : object_(object), path_(std::move(path)), file_(std::move(file)) {
    if (!object.is_object()) fail("{}: {} is not an object", file_, path_.empty() ? "it" : path_);
  }

  [[nodiscard]] double positive(const char* key) const { return number(key, true); }
  [[nodiscard]] double natural_or_zero(const char* key) const { return number(key, false); }

  [[nodiscard]] Fields inside(const std::string& key) const {
    return {find(key), name_of(key), file_};
  }
  [[nodiscard]] bool has(const std::string& key) const { return object_.contains(key); }
  [[nodiscard]] std::string text_or(const char* key, const char* otherwise) const {
    return has(key) && object_.at(key).is_string() ? object_.at(key).get<std::string>() : otherwise;
  }

 private:
  [[nodiscard]] std::string name_of(const std::string& key) const {
    return path_.empty() ? key : path_ + "." + key;
  }

  [[nodiscard]] const json& find(const std::string& key) const {
    if (!object_.contains(key)) {
      fail("{}: has no field {}; write it with quip plan --calibrate --rates FILE", file_,
           name_of(key));
    }
    return object_.at(key);
  }

  [[nodiscard]] double number(const char* key, bool above_zero) const {
    const json& value = find(key);
    const double number = value.is_number() ? value.get<double>() : -1.0;
    if (number < 0 || (above_zero && number == 0)) {
      fail("{}: {} is {}; it must be a{} number", file_, name_of(key), shown(value),
           above_zero ? " positive" : " non-negative");
    }
    return number;
  }

  const json& object_;
  std::string path_;
  std::string file_;
};

json read_document(const std::filesystem::path& file) {
  std::ifstream stream(file);
  if (!stream)
    fail("--rates {}: cannot open; measure them with quip plan --calibrate", file.string());
  std::ostringstream text;
  text << stream.rdbuf();
  return parse_json(text.str(), file.string());
}

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
  const json document = read_document(file);
  const Fields fields(document, "", file.string());
  Rates rates;
  rates.machine = fields.text_or("machine", "");
  rates.ranks = static_cast<int>(fields.positive("ranks"));
  rates.ranks_per_node = static_cast<int>(fields.positive("ranks_per_node"));
  rates.baseline_bytes = static_cast<index_t>(fields.positive("baseline_bytes"));
  rates.read_bandwidth = fields.positive("read_bandwidth");
  rates.write_bandwidth = fields.positive("write_bandwidth");
  rates.durable_seconds = fields.natural_or_zero("durable_seconds");
  for (const std::string& phase : computing_phases) {
    const bool on_device = fields.has("device") && fields.inside("device").has(phase);
    if (on_device) rates.device[phase] = fields.inside("device").inside(phase).positive("flops");
    if (on_device && !fields.inside("host").has(phase)) continue;
    rates.host[phase] = fields.inside("host").inside(phase).positive("flops");
  }
  if (!fields.has("links")) return rates;
  for (const Exchange kind : all_exchanges) {
    const Fields link = fields.inside("links").inside(to_string(kind));
    rates.links[to_string(kind)] = {link.natural_or_zero("latency"), link.positive("bandwidth")};
  }
  return rates;
}

}  // namespace quip::plan
