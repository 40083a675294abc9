// How much memory a planned job takes: what each rank holds at its fullest moment.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "quip/plan/walk.hpp"

namespace quip::plan {

/// What is held at one moment of the work on a block, item by item, in bytes.
struct Footprint {
  std::string moment;
  std::vector<std::pair<std::string, index_t>> items;

  [[nodiscard]] index_t total() const;
};

struct Memory {
  Footprint rank;      ///< host memory of one rank, the node's common weights included
  index_t shared = 0;  ///< the part that all ranks of a node have in common
  Footprint device;    ///< of one rank, where it computes on a device; else empty
};

/// The fullest moment of `rank`. `baseline` is the memory of a rank before it holds anything of a
/// model (Rates). Resident pages of the mapped checkpoint count, although the system may drop them.
[[nodiscard]] Memory memory_of(const PlannedJob& job, const Layout& layout, int rank,
                               index_t baseline);

}  // namespace quip::plan
