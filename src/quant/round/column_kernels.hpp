// What the kernels that walk a block column by column share.
#pragma once

#include <algorithm>
#include <cmath>

#include "core/simd.hpp"

#include "quip/quant/round/rounder.hpp"
#include "quip/quant/round/tiles.hpp"

namespace quip {

/// Rows in one vector group. More groups at once are more independent chains of multiply-adds:
/// one or two would leave the units waiting.
inline constexpr index_t group_lanes = RowTiles::lane_unit;

/// One block of columns of one tile; every pointer is at the block's first column and steps by its
/// `ld` from column to column. What `base`, `target` and `error` mean, each kernel says.
struct BlockView {
  index_t width = 0;
  const float* panel = nullptr;      ///< the block's part of L or H
  index_t panel_ld = 0;              ///< between its rows
  const double* diagonal = nullptr;  ///< of D or H
  float top = 0;
  const float* offset = nullptr;
  index_t offset_ld = 0;
  const float* step = nullptr;
  index_t step_ld = 0;
  const float* inverse = nullptr;
  index_t inverse_ld = 0;
  const float* base = nullptr;
  const float* target = nullptr;
  float* error = nullptr;
  float* q = nullptr;
  index_t ld = 0;  ///< of base, target, error and q
  double* loss = nullptr;

  void skip_lanes(index_t count) {
    for (const float** part : {&offset, &step, &inverse, &base, &target}) *part += count;
    error += count;
    q += count;
    loss += count;
  }
  /// Only the block's columns [first, last).
  void take_columns(index_t first, index_t last) {
    width = last - first;
    panel += first * panel_ld + first;
    diagonal += first;
    offset += first * offset_ld;
    step += first * step_ld;
    inverse += first * inverse_ld;
    for (const float** part : {&base, &target}) *part += first * ld;
    error += first * ld;
    q += first * ld;
  }
};

/// The view of block b of a matrix with that `panel`, on a tile; target, base and error are the
/// caller's.
inline BlockView block_of(const LowerPanels& matrix, index_t b, MatrixView<const float> panel,
                          RoundingTile& tile) {
  const index_t first = matrix.first_column(b);
  BlockView view;
  view.width = matrix.width(b);
  view.panel = panel.data;
  view.panel_ld = panel.ld;
  view.diagonal = matrix.diagonal.data() + first;
  view.top = tile.top;
  view.offset = tile.offset.row(first);
  view.offset_ld = tile.offset.ld;
  view.step = tile.step.row(first);
  view.step_ld = tile.step.ld;
  view.inverse = tile.inverse.row(first);
  view.inverse_ld = tile.inverse.ld;
  view.q = tile.q.row(first);
  view.ld = tile.q.cols();
  view.loss = tile.loss.data();
  return view;
}

/// Runs a kernel over all lanes, four groups at a time while there are as many.
template <typename Kernel>
void for_lane_groups(index_t lanes, BlockView block, Kernel one_group, Kernel four_groups) {
  for (index_t r = 0; r < lanes;) {
    const bool four = lanes - r >= 4 * group_lanes;
    (four ? four_groups : one_group)(block);
    const index_t done = (four ? 4 : 1) * group_lanes;
    block.skip_lanes(done);
    r += done;
  }
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

/// clamp(⌊g + offset⌋, low, top).
[[gnu::always_inline]] inline float to_level(float g, float offset, float low, float top) {
  return std::min(std::max(std::floor(g + offset), low), top);
}

}  // namespace quip
