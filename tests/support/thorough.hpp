// What takes long runs at night only (tests/nightly.sh).
#pragma once

#include <cstdlib>
#include <string_view>

namespace quip {

/// True at night.
inline bool thorough() {
  const char* const set = std::getenv("QUIP_THOROUGH");
  return set != nullptr && std::string_view(set) == "1";
}

}  // namespace quip
