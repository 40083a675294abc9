// The memory that is held at one moment.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "quip/core/matrix.hpp"

namespace quip {

/// Bytes held at one moment of the work on a block, item by item.
struct Footprint {
  std::string moment;
  std::vector<std::pair<std::string, index_t>> items;

  [[nodiscard]] index_t total() const {
    index_t bytes = 0;
    for (const auto& item : items) bytes += item.second;
    return bytes;
  }
};

}  // namespace quip
