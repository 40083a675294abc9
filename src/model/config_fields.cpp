#include "config_fields.hpp"

#include <cstdint>
#include <limits>

#include "quip/io/json.hpp"

namespace quip {

using nlohmann::json;

ConfigFields::ConfigFields(const json& object, std::string origin, std::string prefix)
    : object_(&object), origin_(std::move(origin)), prefix_(std::move(prefix)) {
  if (!object.is_object()) fail("{}: not a JSON object", origin_);
}

const json* ConfigFields::find(const std::string& name) const {
  const auto found = object_->find(name);
  return found == object_->end() || found->is_null() ? nullptr : &*found;
}

bool ConfigFields::is_null(const std::string& name) const {
  return object_->contains(name) && !has(name);
}

const json& ConfigFields::require(const std::string& name) const {
  const json* value = find(name);
  if (value == nullptr) reject(name, "is missing");
  return *value;
}

index_t ConfigFields::integer(const std::string& name, index_t least) const {
  constexpr index_t largest = std::numeric_limits<std::int32_t>::max();
  const json& value = require(name);
  // Unsigned first: a literal above 2^63 would wrap if read as signed.
  const bool fits = value.is_number_unsigned()
                        ? value.get<std::uint64_t>() <= static_cast<std::uint64_t>(largest)
                        : value.is_number_integer();
  if (!fits || value.get<index_t>() < least) {
    reject(name, "is {}, not an integer between {} and {}", shown(value), least, largest);
  }
  return value.get<index_t>();
}

double ConfigFields::positive(const std::string& name) const {
  const json& value = require(name);
  const double number = value.is_number() ? value.get<double>() : 0;
  // Also as the fp32 number that it becomes: neither zero nor infinite.
  if (!(number >= std::numeric_limits<float>::min() &&
        number <= std::numeric_limits<float>::max())) {
    reject(name, "is {}, not a positive number", shown(value));
  }
  return number;
}

bool ConfigFields::flag_or(const std::string& name, bool fallback) const {
  const json* value = find(name);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) reject(name, "is {}, not true or false", shown(*value));
  return value->get<bool>();
}

std::string ConfigFields::text(const std::string& name) const {
  const json& value = require(name);
  if (!value.is_string()) reject(name, "is {}, not a string", shown(value));
  return value.get<std::string>();
}

void ConfigFields::require_value(const std::string& name, const json& value) const {
  const json* found = find(name);
  if (found == nullptr || *found == value) return;
  reject(name, "is {}; quip knows {} there", shown(*found), shown(value));
}

ConfigFields ConfigFields::object(const std::string& name) const {
  const json& value = require(name);
  if (!value.is_object()) reject(name, "is {}, not an object", shown(value));
  return {value, origin_, prefix_ + name + "."};
}

}  // namespace quip
