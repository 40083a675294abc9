#include "quip/quant/options/overrides.hpp"

#include <algorithm>

#include <fmt/ranges.h>

#include "quip/core/error.hpp"
#include "quip/quant/options/option_table.hpp"

namespace quip {
namespace {

void apply_setting(LayerOptions& options, const std::string& key, const std::string& value) {
  std::string known;
  for (const LayerOption& option : layer_options()) {
    if (key != option.name) {
      known += (known.empty() ? "" : ", ") + std::string(option.name);
      continue;
    }
    try {
      return option.parse(options, value);
    } catch (const Error& error) {
      fail("{}={}: {}", key, value, error.what());
    }
  }
  fail("unknown option '{}' (known: {})", key, known);
}

}  // namespace

void Overrides::add(const std::string& rule) {
  const std::string option = "--override '" + rule + "'";
  const auto complain = [&](const std::string& what) { fail("{}: {}", option, what); };
  const std::size_t colon = rule.rfind(':');
  if (colon == std::string::npos || colon == 0) complain("must read REGEX:option=value,…");
  Rule parsed{rule, NamePattern(rule.substr(0, colon), option), {}};
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
    if (!rule.pattern.matches(layer)) continue;
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

void Overrides::check_used(const std::vector<std::string>& layers) const {
  for (const Rule& rule : rules_) {
    const auto matches = [&](const auto& layer) { return rule.pattern.matches(layer); };
    if (std::ranges::none_of(layers, matches)) {
      fail("--override '{}' matches no layer that is quantized; they have names like {}", rule.text,
           layers.front());
    }
  }
}

std::vector<std::string> Overrides::rules() const {
  std::vector<std::string> texts;
  for (const Rule& rule : rules_) texts.push_back(rule.text);
  return texts;
}

}  // namespace quip
