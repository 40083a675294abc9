// Shared by the rounders that go block by block, and by their kernels on the host.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>

#include "core/simd.hpp"
#include "host_math.hpp"

#include "quip/quant/round/rounder.hpp"
#include "quip/quant/round/tiles.hpp"

namespace quip {

/// Returns the columns at positions [first, last) of block b of a matrix with that `panel`, on a
/// tile; target, base and error are the caller's.
inline ColumnBlock block_of(const LowerPanels& matrix, index_t b, MatrixView<const float> panel,
                            const RoundingTile& tile, index_t first, index_t last) {
  const index_t skipped = first - matrix.first_column(b);
  ColumnBlock block;
  block.width = last - first;
  block.lanes = block.ld = tile.q.cols;
  block.panel = panel.row(skipped) + skipped;
  block.panel_ld = panel.ld;
  block.diagonal = matrix.diagonal_of(b) + skipped;
  block.top = tile.top;
  block.grid = tile.grid.from(first);
  block.offset = tile.offset == nullptr ? nullptr : tile.offset + first * tile.q.cols;
  block.q = tile.q.row(first);
  block.loss = tile.loss.data;
  return block;
}
inline ColumnBlock block_of(const LowerPanels& matrix, index_t b, MatrixView<const float> panel,
                            const RoundingTile& tile) {
  const index_t first = matrix.first_column(b);
  return block_of(matrix, b, panel, tile, first, first + panel.cols);
}

/// Rows in one vector group. More groups at once are more independent chains of multiply-adds:
/// one or two would leave the units waiting.
inline constexpr index_t group_lanes = RowTiles::lane_unit;

/// Runs a kernel over all lanes, four groups at a time while there are as many.
template <typename Kernel>
void for_lane_groups(ColumnBlock block, Kernel one_group, Kernel four_groups) {
  while (block.lanes > 0) {
    const bool four = block.lanes >= 4 * group_lanes;
    (four ? four_groups : one_group)(block);
    const index_t done = (four ? 4 : 1) * group_lanes;
    block.lanes -= done;
    for (const float** part : {&block.grid.step, &block.grid.inverse, &block.offset}) {
      if (*part != nullptr) *part += done;
    }
    block.base += done;
    block.target += done;
    block.error += done;
    block.q += done;
    block.loss += done;
  }
}

inline constexpr auto ones = [] {
  std::array<float, 4 * group_lanes> row{};
  row.fill(1.0F);
  return row;
}();
inline constexpr auto halves = [] {
  std::array<float, 4 * group_lanes> row{};
  row.fill(0.5F);
  return row;
}();

/// Returns the row of `values` [groups × lanes] for position k; null stands for 1 throughout.
[[gnu::always_inline]] inline const float* row_of(const float* values, const std::int32_t* group,
                                                  index_t k, index_t lanes) {
  if (values == nullptr) return ones.data();
  return values + (group == nullptr ? 0 : group[k]) * lanes;
}
/// Returns the offsets of column k.
[[gnu::always_inline]] inline const float* offset_of(const float* offset, index_t k,
                                                     index_t lanes) {
  return offset == nullptr ? halves.data() : offset + k * lanes;
}

/// sum += Σⱼ factor[j·stride] · column j, for j in [first, last) of columns `ld` apart.
template <index_t Rows>
[[gnu::always_inline]] inline void accumulate(float* sum, index_t first, index_t last,
                                              const float* factor, index_t stride,
                                              const float* columns, index_t ld) {
  for (index_t j = first; j < last; ++j) {
    const float value = factor[j * stride];
    const float* column = columns + j * ld;
    for (index_t r = 0; r < Rows; ++r) sum[r] += value * column[r];
  }
}

/// Returns clamp(⌊g + offset⌋, low, top).
[[gnu::always_inline]] inline float to_level(float g, float offset, float low, float top) {
  return std::min(std::max(std::floor(g + offset), low), top);
}

}  // namespace quip
