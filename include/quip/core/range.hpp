// Contiguous ranges of units, and the shares of ranks in them.
#pragma once

#include <vector>

#include "quip/core/matrix.hpp"

namespace quip {

/// The half-open range [first, last).
struct Range {
  index_t first = 0;
  index_t last = 0;
  [[nodiscard]] index_t count() const { return last - first; }
};

/// Returns the part of `count` units that `rank` of `size` takes: contiguous and balanced.
[[nodiscard]] Range share_of(index_t count, int rank, int size);

/// Returns the size+1 boundaries of `share_of` over all ranks, times `scale`.
[[nodiscard]] std::vector<index_t> share_offsets(index_t count, int size, index_t scale = 1);

}  // namespace quip
