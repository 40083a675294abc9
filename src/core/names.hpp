// Enumerations that users write: one table parses, prints and lists the choices.
#pragma once

#include <array>
#include <charconv>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "quip/core/error.hpp"

namespace quip {

template <typename Kind, std::size_t N>
using Names = std::array<std::pair<Kind, const char*>, N>;

template <typename Kind, std::size_t N>
std::string name_of(Kind kind, const Names<Kind, N>& names) {
  for (const auto& [value, name] : names) {
    if (value == kind) return name;
  }
  return {};
}

/// Throws Error listing the choices.
template <typename Kind, std::size_t N>
Kind parse_name(const std::string& text, const Names<Kind, N>& names) {
  std::string known;
  for (const auto& [value, name] : names) {
    if (text == name) return value;
    known += known.empty() ? name : std::string(", ") + name;
  }
  fail("'{}' is none of {}", text, known);
}

/// Throws Error naming the bounds for what is no number from `low` to `high`.
template <typename Number>
Number parse_number(const std::string& text, Number low = 0,
                    Number high = std::numeric_limits<Number>::max()) {
  Number value{};
  const char* const last = text.data() + text.size();
  const auto [end, problem] = std::from_chars(text.data(), last, value);
  if (problem == std::errc::invalid_argument || end != last) {
    fail("'{}' is not a non-negative number", text);
  }
  const bool read = problem == std::errc();  // else it is beyond the type
  if (read && value >= low && value <= high) return value;
  const bool open = high == std::numeric_limits<Number>::max();
  if (read && open && value < low) fail("must {}", low > 0 ? "be positive" : "not be negative");
  fail("must be {} to {}", low, high);
}

/// Returns what `parse` makes of the text; nothing for `word`.
template <typename Parse>
auto parse_or(const std::string& text, const char* word, Parse parse)
    -> std::optional<decltype(parse(text))> {
  if (text == word) return std::nullopt;
  try {
    return parse(text);
  } catch (const Error& error) {
    fail("{} (or {})", error.what(), word);
  }
}

}  // namespace quip
