#include "quip/io/json.hpp"

#include <cstdint>
#include <limits>

#include "incomplete_download.hpp"

#include "quip/core/error.hpp"

namespace quip {

using nlohmann::json;

template <typename Json>
Json parse_json(std::string_view text, const std::string& origin) {
  constexpr int deepest = 64;
  const auto shallow = [&](int depth, typename Json::parse_event_t /*event*/, Json& /*value*/) {
    if (depth > deepest) fail("{}: nests more than {} lists or objects", origin, deepest);
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), shallow);
  } catch (const json::exception& error) {
    refuse_placeholder(text, origin);
    fail("{}: not valid JSON: {}", origin, shortened(error.what()));
  }
}

template json parse_json(std::string_view, const std::string&);
template nlohmann::ordered_json parse_json(std::string_view, const std::string&);

std::string shortened(std::string text) {
  constexpr std::size_t longest = 160;
  if (text.size() <= longest) return text;
  std::size_t end = longest;
  // Not inside a UTF-8 sequence, whose bytes after the first are 10xxxxxx.
  while (end > longest - 4 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) --end;
  text.resize(end);
  return text + " …";
}

std::string shown(const json& value) { return shortened(value.dump()); }

std::optional<index_t> natural(const json& value) {
  constexpr auto largest = static_cast<std::uint64_t>(std::numeric_limits<index_t>::max());
  if (!value.is_number_integer()) return std::nullopt;
  const bool fits = value.is_number_unsigned() ? value.get<std::uint64_t>() <= largest
                                               : value.get<std::int64_t>() >= 0;
  if (!fits) return std::nullopt;
  return value.get<index_t>();
}

index_t require_natural(const json& value, const std::string& where) {
  const std::optional<index_t> number = natural(value);
  if (!number) fail("{} holds {}, which is not a natural number below 2^63", where, shown(value));
  return *number;
}

}  // namespace quip
