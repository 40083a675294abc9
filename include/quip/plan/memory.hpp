// The memory that each rank of a planned job holds at its fullest moment.
#pragma once

#include "quip/core/footprint.hpp"
#include "quip/pipeline/device_memory.hpp"
#include "quip/plan/walk.hpp"

namespace quip::plan {

struct Memory {
  Footprint rank;      ///< host memory of one rank, the node's common weights included
  index_t shared = 0;  ///< the part that all ranks of a node have in common
  DeviceNeeds device;  ///< a rank's needs of its device; empty if it has none
};

/// Returns the fullest moment of each of the first `ranks` ranks, over all blocks. `baseline` is
/// the memory of a rank before it holds anything of a model (Rates). Resident pages of the mapped
/// checkpoint count, although the system may drop them.
[[nodiscard]] std::vector<Memory> memory_of(const PlannedJob& job, const Layout& layout, int ranks,
                                            index_t baseline);

}  // namespace quip::plan
