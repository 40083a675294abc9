#include "safetensors_header.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <string_view>

#include "quip/core/error.hpp"
#include "quip/io/json.hpp"

namespace quip {
namespace {

using nlohmann::json;

constexpr index_t length_bytes = 8;
/// The limit of the format's own library: parsed JSON takes many times its text's memory.
constexpr std::uint64_t longest_header = 100'000'000;

/// A tensor of a file, in messages.
struct Place {
  const std::string& file;
  const std::string& tensor;

  [[nodiscard]] std::string text() const { return fmt::format("{}: tensor {}", file, tensor); }

  template <typename... Args>
  [[noreturn]] void reject(fmt::format_string<Args...> format, Args&&... args) const {
    fail("{}: {}", text(), fmt::format(format, std::forward<Args>(args)...));
  }
};

const json& member(const json& entry, const char* key, const Place& place) {
  const auto found = entry.find(key);
  if (found == entry.end()) place.reject("\"{}\" is missing", key);
  return *found;
}

std::vector<index_t> parse_shape(const json& value, const Place& place) {
  if (!value.is_array()) place.reject("\"shape\" is not a list");
  std::vector<index_t> shape;
  for (const json& extent : value) {
    shape.push_back(require_natural(extent, place.text() + ": \"shape\""));
  }
  if (!addressable(shape, 1)) place.reject("shape {} overflows 64 bits", shown(value));
  return shape;
}

/// Sets the begin and the end of an entry, as positions in the file.
void parse_offsets(const json& value, index_t data_start, const Place& place, HeaderEntry& entry) {
  if (!value.is_array() || value.size() != 2) {
    place.reject("\"data_offsets\" is {}, not two numbers", shown(value));
  }
  const std::string where = place.text() + ": \"data_offsets\"";
  const index_t begin = require_natural(value[0], where);
  const index_t end = require_natural(value[1], where);
  if (begin > end) place.reject("\"data_offsets\" run backwards: {} > {}", begin, end);
  if (end > std::numeric_limits<index_t>::max() - data_start) {
    place.reject("\"data_offsets\" end at {}, beyond any file", end);
  }
  entry.begin = data_start + begin;
  entry.end = data_start + end;
}

HeaderEntry parse_entry(const json& value, index_t data_start, const Place& place) {
  if (!value.is_object()) place.reject("its header entry is not an object");
  HeaderEntry entry;
  entry.info.name = place.tensor;
  entry.info.shape = parse_shape(member(value, "shape", place), place);
  parse_offsets(member(value, "data_offsets", place), data_start, place, entry);
  const json& dtype = member(value, "dtype", place);
  if (!dtype.is_string()) place.reject("\"dtype\" is not a string");
  const std::optional<DType> known = find_dtype(dtype.get_ref<const std::string&>());
  if (!known) {
    place.reject("\"dtype\" {} is unknown to quip; store the tensor in another type", shown(dtype));
  }
  entry.info.dtype = *known;
  // Eight elements have as many bytes as one has bits.
  const bool whole = entry.info.elements() % 8 * bytes_of(*known, 8) % 8 == 0;
  if (!whole || !addressable(entry.info.shape, size_of(*known)) ||
      entry.info.bytes() != entry.end - entry.begin) {
    place.reject("\"data_offsets\" span {} bytes, but shape {} of {} does not need that many",
                 entry.end - entry.begin, shown(value["shape"]), to_string(*known));
  }
  return entry;
}

index_t header_length(std::span<const std::byte> file, const std::string& origin) {
  const auto size = static_cast<index_t>(file.size());
  if (size < length_bytes) {
    fail("{}: {} bytes are too few for a safetensors file; download it again", origin, size);
  }
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof length);
  const auto room = static_cast<std::uint64_t>(size - length_bytes);
  if (length > room) {
    fail(
        "{}: the header claims {} bytes, the file has {} left; it is truncated or no safetensors "
        "file",
        origin, length, room);
  }
  if (length > longest_header) {
    fail("{}: the header claims {} bytes; no safetensors file has more than {}", origin, length,
         longest_header);
  }
  return static_cast<index_t>(length);
}

void require_tiling(const std::map<std::string, HeaderEntry>& entries, index_t data_start,
                    index_t file_size, const std::string& origin) {
  std::vector<const HeaderEntry*> order;
  order.reserve(entries.size());
  for (const auto& [name, entry] : entries) order.push_back(&entry);
  std::ranges::sort(order, {},
                    [](const HeaderEntry* entry) { return std::pair(entry->begin, entry->end); });
  const std::string* previous = nullptr;
  index_t covered = data_start;
  for (const HeaderEntry* entry : order) {
    const Place place{origin, entry->info.name};
    if (entry->begin < covered) {
      place.reject("its data overlaps tensor {}", previous == nullptr ? "?" : *previous);
    }
    if (entry->begin > covered) {
      place.reject("{} bytes before its data belong to no tensor", entry->begin - covered);
    }
    covered = entry->end;
    previous = &entry->info.name;
  }
  if (covered > file_size) {
    fail(
        "{}: truncated: {} bytes are missing (tensor {} ends at byte {}, the file at {}); "
        "download it again",
        origin, covered - file_size, *previous, covered, file_size);
  }
  if (covered < file_size) {
    fail("{}: {} bytes after the last tensor belong to no tensor", origin, file_size - covered);
  }
}

}  // namespace

std::map<std::string, HeaderEntry> parse_header(std::span<const std::byte> file,
                                                const std::string& origin) {
  const index_t length = header_length(file, origin);
  const index_t data_start = length_bytes + length;
  const auto* text = reinterpret_cast<const char*>(file.data()) + length_bytes;
  const json header = parse_json({text, at(length)}, origin + ": the header");
  if (!header.is_object()) fail("{}: the header is not a JSON object", origin);
  std::map<std::string, HeaderEntry> entries;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") continue;
    entries.emplace(name, parse_entry(value, data_start, Place{origin, name}));
  }
  require_tiling(entries, data_start, static_cast<index_t>(file.size()), origin);
  return entries;
}

}  // namespace quip
