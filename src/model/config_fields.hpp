// Typed access to the fields of a JSON object, with messages that name file and field.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "quip/core/error.hpp"
#include "quip/core/matrix.hpp"

namespace quip {

/// A JSON object of a configuration. Throughout, `null` counts as absent; where transformers
/// tells the two apart, ask `is_null`. Every accessor throws Error on a value of another type.
class ConfigFields {
 public:
  /// Throws Error if `object` is not an object. `origin` (a path) and `prefix`
  /// ("rope_scaling.") go into messages.
  ConfigFields(const nlohmann::json& object, std::string origin, std::string prefix = "");

  [[nodiscard]] bool has(const std::string& name) const { return find(name) != nullptr; }
  /// True if the field is there, and null.
  [[nodiscard]] bool is_null(const std::string& name) const;

  /// Returns an integer in [1, 2³¹).
  [[nodiscard]] index_t size(const std::string& name) const { return integer(name, 1); }
  [[nodiscard]] index_t size_or(const std::string& name, index_t fallback) const {
    return has(name) ? size(name) : fallback;
  }
  /// Returns an integer in [0, 2³¹).
  [[nodiscard]] index_t count_or(const std::string& name, index_t fallback) const {
    return has(name) ? integer(name, 0) : fallback;
  }
  /// Returns a number above zero that fp32 can hold.
  [[nodiscard]] double positive(const std::string& name) const;
  [[nodiscard]] double positive_or(const std::string& name, double fallback) const {
    return has(name) ? positive(name) : fallback;
  }
  [[nodiscard]] bool flag_or(const std::string& name, bool fallback) const;
  [[nodiscard]] std::string text(const std::string& name) const;
  [[nodiscard]] std::string text_or(const std::string& name, const std::string& fallback) const {
    return has(name) ? text(name) : fallback;
  }
  /// Throws Error unless the field is absent or has this value: quip does what it stands for.
  void require_value(const std::string& name, const nlohmann::json& value) const;
  /// Returns the raw value, or nullptr.
  [[nodiscard]] const nlohmann::json* find(const std::string& name) const;
  /// Returns a nested object.
  [[nodiscard]] ConfigFields object(const std::string& name) const;

  template <typename... Args>
  [[noreturn]] void reject(const std::string& name, fmt::format_string<Args...> format,
                           Args&&... args) const {
    fail("{}: {}{} {}", origin_, prefix_, name, fmt::format(format, std::forward<Args>(args)...));
  }

 private:
  [[nodiscard]] const nlohmann::json& require(const std::string& name) const;
  [[nodiscard]] index_t integer(const std::string& name, index_t least) const;

  const nlohmann::json* object_;
  std::string origin_;
  std::string prefix_;
};

}  // namespace quip
