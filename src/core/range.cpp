#include "quip/core/range.hpp"

namespace quip {

Range share_of(index_t count, int rank, int size) {
  // The first count % size ranks hold one unit more.
  const index_t base = count / size;
  const index_t extra = count % size;
  const auto begin_of = [&](index_t r) { return r * base + (r < extra ? r : extra); };
  return {begin_of(rank), begin_of(rank + 1)};
}

std::vector<index_t> share_offsets(index_t count, int size, index_t scale) {
  std::vector<index_t> offsets;
  offsets.reserve(at(size) + 1);
  offsets.push_back(0);
  for (int r = 0; r < size; ++r) offsets.push_back(share_of(count, r, size).last * scale);
  return offsets;
}

}  // namespace quip
