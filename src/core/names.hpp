// Enumerations that users write: one table parses, prints and lists the choices.
#pragma once

#include <array>
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

/// Throws Error listing the choices; `what` is the option or field.
template <typename Kind, std::size_t N>
Kind parse_name(const std::string& text, const Names<Kind, N>& names, const char* what) {
  std::string known;
  for (const auto& [value, name] : names) {
    if (text == name) return value;
    known += known.empty() ? name : std::string(", ") + name;
  }
  fail("{}: unknown value '{}' (known: {})", what, text, known);
}

}  // namespace quip
