#include "quip/core/name_pattern.hpp"

#include <regex>

#include "quip/core/error.hpp"

namespace quip {

struct NamePattern::Compiled {
  std::regex regex;
};

NamePattern::NamePattern(const std::string& text, const std::string& option) {
  try {
    compiled_ = std::make_shared<const Compiled>(Compiled{std::regex(text)});
  } catch (const std::regex_error&) {
    fail("{}: '{}' is not a regular expression (ECMAScript syntax)", option, text);
  }
}

bool NamePattern::matches(const std::string& name) const {
  return std::regex_search(name, compiled_->regex);
}

}  // namespace quip
