#include "quip/quant/options/overrides.hpp"

#include <functional>
#include <map>

#include <fmt/ranges.h>

#include "quip/core/error.hpp"

namespace quip {
namespace {

template <typename Number>
Number parse_number(const std::string& text, const std::function<Number(std::size_t*)>& convert) {
  std::size_t used = 0;
  Number value{};
  try {
    value = convert(&used);
  } catch (const std::exception&) {
    used = text.size() + 1;
  }
  if (used != text.size() || !(value >= 0)) fail("'{}' is not a non-negative number", text);
  return value;
}

int parse_integer(const std::string& text) {
  return parse_number<int>(text, [&](std::size_t* used) { return std::stoi(text, used); });
}

double parse_real(const std::string& text) {
  return parse_number<double>(text, [&](std::size_t* used) { return std::stod(text, used); });
}

bool parse_on_off(const std::string& text) {
  if (text != "on" && text != "off") fail("'{}' is neither on nor off", text);
  return text == "on";
}

void set_bits(LayerOptions& options, const std::string& value) {
  options.bits = parse_integer(value);
  if (options.bits != 2 && options.bits != 3 && options.bits != 4 && options.bits != 8) {
    fail("bits={}: must be 2, 3, 4 or 8", value);
  }
}

double parse_rho(const std::string& text) {
  const double rho = parse_real(text);
  if (rho == 0) fail("rho={}: must be auto or positive", text);
  return rho;
}

/// `auto` leaves to the method, or to the bundle of steps, what the other options say.
template <typename T, typename Parse>
void set(std::optional<T>& option, const std::string& value, Parse parse) {
  option.reset();
  if (value != "auto") option = parse(value);
}

index_t parse_group_size(const std::string& text) {
  const index_t size = parse_integer(text);
  if (size == 0) fail("group-size={}: must be row or 8 or more", text);
  return size;
}

using Setter = std::function<void(LayerOptions&, const std::string&)>;

const std::map<std::string, Setter>& setters() {
  static const std::map<std::string, Setter> table = {
      {"bits", set_bits},
      {"method", [](auto& o, const auto& v) { o.method = parse_method(v); }},
      {"rescale", [](auto& o, const auto& v) { set(o.rescaling, v, parse_on_off); }},
      {"transform", [](auto& o, const auto& v) { set(o.transform, v, parse_transform); }},
      {"grid", [](auto& o, const auto& v) { set(o.grid_kind, v, parse_grid); }},
      {"group-size",
       [](auto& o, const auto& v) { o.group_size = v == "row" ? 0 : parse_group_size(v); }},
      {"groups", [](auto& o, const auto& v) { set(o.groups, v, parse_group_fit); }},
      {"symmetric", [](auto& o, const auto& v) { o.symmetric = parse_on_off(v); }},
      {"rho", [](auto& o, const auto& v) { set(o.rho, v, parse_rho); }},
      {"clamp", [](auto& o, const auto& v) { o.clamp = parse_clamp(v); }},
      {"order", [](auto& o, const auto& v) { set(o.order, v, parse_order); }},
      {"act-order", [](auto& o, const auto& v) { o.act_order = parse_on_off(v); }},
      {"rounding", [](auto& o, const auto& v) { o.rounding = parse_rounding(v); }},
      {"passes", [](auto& o, const auto& v) { set(o.passes, v, parse_integer); }},
      {"damp", [](auto& o, const auto& v) { o.damping = parse_real(v); }},
  };
  return table;
}

void apply_setting(LayerOptions& options, const std::string& key, const std::string& value) {
  const auto setter = setters().find(key);
  if (setter == setters().end()) {
    std::string known;
    for (const auto& [name, unused] : setters()) known += (known.empty() ? "" : ", ") + name;
    fail("unknown option '{}' (known: {})", key, known);
  }
  setter->second(options, value);
}

}  // namespace

void Overrides::add(const std::string& rule) {
  const auto complain = [&](const std::string& what) { fail("--override '{}': {}", rule, what); };
  const std::size_t colon = rule.rfind(':');
  if (colon == std::string::npos || colon == 0) complain("must read REGEX:option=value,…");
  Rule parsed{rule, {}, {}};
  try {
    parsed.pattern = std::regex(rule.substr(0, colon));
  } catch (const std::regex_error&) {
    complain("the part before ':' is not a regular expression (ECMAScript syntax)");
  }
  LayerOptions scratch;  // settles now whether every setting can be applied
  for (std::size_t at = colon + 1; at <= rule.size();) {
    const std::size_t end = std::min(rule.find(',', at), rule.size());
    const std::string setting = rule.substr(at, end - at);
    const std::size_t equals = setting.find('=');
    if (equals == std::string::npos) complain("'" + setting + "' is not option=value");
    parsed.settings.emplace_back(setting.substr(0, equals), setting.substr(equals + 1));
    try {
      apply_setting(scratch, parsed.settings.back().first, parsed.settings.back().second);
    } catch (const Error& error) {
      complain(error.what());
    }
    at = end + 1;
  }
  rules_.push_back(std::move(parsed));
}

LayerOptions Overrides::apply(LayerOptions options, const std::string& layer) const {
  std::vector<std::string> matching;
  for (const Rule& rule : rules_) {
    if (!std::regex_search(layer, rule.pattern)) continue;
    for (const auto& [key, value] : rule.settings) apply_setting(options, key, value);
    matching.push_back("'" + rule.text + "'");
  }
  if (matching.empty()) return options;
  try {
    check_together(options);
  } catch (const Error& error) {
    fail("--override {}: layer {}: {}", fmt::join(matching, " "), layer, error.what());
  }
  return options;
}

std::vector<std::string> Overrides::rules() const {
  std::vector<std::string> texts;
  for (const Rule& rule : rules_) texts.push_back(rule.text);
  return texts;
}

}  // namespace quip
