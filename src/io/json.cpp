#include "quip/io/json.hpp"

#include <cstdint>
#include <limits>

#include "incomplete_download.hpp"

#include "quip/core/error.hpp"

namespace quip {

using nlohmann::json;

json parse_json(std::string_view text, const std::string& origin) {
  constexpr int kDeepest = 64;
  const auto shallow = [&](int depth, json::parse_event_t /*event*/, json& /*value*/) {
    if (depth > kDeepest) fail("{}: nests more than {} lists or objects", origin, kDeepest);
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), shallow);
  } catch (const json::exception& error) {
    refuse_placeholder(text, origin);
    fail("{}: not valid JSON: {}", origin, shortened(error.what()));
  }
}

std::string shortened(std::string text) {
  constexpr std::size_t kLongest = 160;
  if (text.size() <= kLongest) return text;
  std::size_t end = kLongest;
  // Not inside a UTF-8 sequence, whose bytes after the first are 10xxxxxx.
  while (end > kLongest - 4 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) --end;
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

}  // namespace quip
