// A pattern for names. std::regex stays in one source: each that sees it takes seconds
// longer to compile.
#pragma once

#include <memory>
#include <string>

namespace quip {

class NamePattern {
 public:
  /// Throws Error naming `option` unless `text` is a regular expression (ECMAScript syntax).
  NamePattern(const std::string& text, const std::string& option);
  /// True if the pattern matches somewhere in `name`.
  [[nodiscard]] bool matches(const std::string& name) const;

 private:
  struct Compiled;
  std::shared_ptr<const Compiled> compiled_;
};

}  // namespace quip
