// Options for some layers only: 'REGEX:bits=4,method=optq'.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "quip/core/name_pattern.hpp"
#include "quip/quant/options/options.hpp"

namespace quip {

/// Rules in the order given; a later rule wins where several match a layer's name.
class Overrides {
 public:
  /// Throws Error naming the rule for a bad pattern, an unknown key or an impossible value.
  void add(const std::string& rule);
  /// Returns `options` with the rules that match applied. Throws Error naming layer and rules if
  /// the outcome has options without a meaning together (see check_together).
  [[nodiscard]] LayerOptions apply(LayerOptions options, const std::string& layer) const;
  /// Throws Error naming a rule that matches none of `layers`.
  void check_used(const std::vector<std::string>& layers) const;
  [[nodiscard]] std::vector<std::string> rules() const;

 private:
  struct Rule {
    std::string text;
    NamePattern pattern;
    std::vector<std::pair<std::string, std::string>> settings;
  };
  std::vector<Rule> rules_;
};

}  // namespace quip
