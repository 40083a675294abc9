// JSON that others wrote: bounded depth, short messages, numbers without silent conversion.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "quip/core/matrix.hpp"

namespace quip {

/// Parses `text`. Throws Error naming `origin` (a path) if it is no JSON, or nests values
/// deeper than any file of ours or Hugging Face's: printing and copying recurse.
/// Defined for nlohmann::json, and for nlohmann::ordered_json, which keeps the order of keys.
template <typename Json = nlohmann::json>
[[nodiscard]] Json parse_json(std::string_view text, const std::string& origin);

/// Returns `text` cut after 160 bytes, as one line of a message can hold it.
[[nodiscard]] std::string shortened(std::string text);

/// Returns the value's JSON text, shortened.
[[nodiscard]] std::string shown(const nlohmann::json& value);

/// Returns the value if it is an integer in [0, 2⁶³): a fraction, a negative or a larger number
/// would be converted silently.
[[nodiscard]] std::optional<index_t> natural(const nlohmann::json& value);

/// Returns such an integer. Throws Error naming `where` if the value is none.
[[nodiscard]] index_t require_natural(const nlohmann::json& value, const std::string& where);

}  // namespace quip
