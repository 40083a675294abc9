#include "quip/linalg/distribution.hpp"

#include <charconv>

#include "quip/core/error.hpp"

namespace quip {
namespace {

/// Parses a positive number that ends at `last`; returns 0 if there is none.
int parse_positive(const char* first, const char* last) {
  int value = 0;
  const auto [end, problem] = std::from_chars(first, last, value);
  return problem == std::errc{} && end == last && value > 0 ? value : 0;
}

}  // namespace

index_t CyclicAxis::blocks_of(int p, index_t first) const {
  const auto before = [&](index_t b) { return (b - p + processes - 1) / processes; };
  return before(blocks()) - before(std::min(first, blocks()));
}

index_t CyclicAxis::extent_of(int p, index_t first) const {
  const index_t count = blocks_of(p, first);
  const index_t last = blocks() - 1;
  const bool holds_last = count > 0 && owner(last) == p;
  return count * block - (holds_last ? block - width(last) : 0);
}

std::string to_string(const GridShape& grid) { return fmt::format("{}x{}", grid.rows, grid.cols); }

GridShape parse_grid_shape(const std::string& text) {
  const std::size_t cross = text.find('x');
  if (cross != std::string::npos) {
    const char* begin = text.data();
    const GridShape grid{parse_positive(begin, begin + cross),
                         parse_positive(begin + cross + 1, begin + text.size())};
    if (grid.rows > 0 && grid.cols > 0) return grid;
  }
  fail("'{}' is not a grid of ranks: write ROWSxCOLUMNS, e.g. 2x2", text);
}

GridShape choose_grid_shape(int ranks, index_t blocks) {
  for (int count = ranks; count > 1; --count) {
    int cols = 1;
    for (int c = 1; c * c <= count; ++c) {
      if (count % c == 0) cols = c;
    }
    if (count / cols <= blocks) return {count / cols, cols};
  }
  return {1, 1};
}

}  // namespace quip
