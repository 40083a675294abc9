// OPTQ (GPTQ, arXiv 2210.17323): after each column the weights still to come move to make up for
// its error. Kept apart from LDLQ, with which it must agree (QuIP, Theorem 6).
#include "column_kernels.hpp"

namespace quip {
namespace {

/// With the upper Cholesky factor R of H⁻¹ = RᵀR (its rows over their diagonal are the panel's
/// columns: panel_jk = R_kj/R_kk), from the first column to the last:
///   ŵₖ = clamp(Q(wₖ)),   w_j ← w_j − (wₖ − ŵₖ)/R_kk · R_kj for all j > k.
template <index_t Groups>
[[gnu::always_inline]] inline void round_columns(const ColumnBlock& b) {
  constexpr index_t rows = Groups * group_lanes;
  for (index_t k = 0; k < b.width; ++k) {
    float w[rows];
    for (index_t r = 0; r < rows; ++r) w[r] = b.target[k * b.ld + r];
    accumulate<rows>(w, 0, k, b.panel + k * b.panel_ld, 1, b.error, b.ld);
    const double weight = b.diagonal[k];
    const float* inverse = row_of(b.grid.inverse, b.grid.group, k, b.ld);
    const float* step = row_of(b.grid.step, b.grid.group, k, b.ld);
    const float* offset = offset_of(b.offset, k, b.ld);
    for (index_t r = 0; r < rows; ++r) {
      const float level = to_level(w[r] * inverse[r], offset[r], 0.0F, b.top);
      const float error = level * step[r] - w[r];
      b.q[k * b.ld + r] = level;
      b.error[k * b.ld + r] = error;
      b.loss[r] += weight * (static_cast<double>(error) * error);  // (ŵₖ − wₖ)²/R_kk²
    }
  }
}

QUIP_SIMD void round_one_group(const ColumnBlock& block) { round_columns<1>(block); }
QUIP_SIMD void round_four_groups(const ColumnBlock& block) { round_columns<4>(block); }

/// Where a run of columns that starts at `position` ends: with its block, or before the next group
/// whose grid is fitted to what all columns before it have left.
index_t end_of_run(index_t position, index_t block_end, const RoundingTile& tile) {
  if (!tile.fit_group) return block_end;
  return std::min(block_end, (position / tile.group_size + 1) * tile.group_size);
}

class Optq final : public Rounder {
 public:
  [[nodiscard]] bool portable() const override { return true; }
  [[nodiscard]] Sweep sweep() const override {
    return {.matrix = &PreparedLayer::feedback, .forward = true, .knows_loss = true};
  }
  /// `work` is w.
  void start(RoundingTile& tile) const override { tile.math->copy(tile.x, tile.work); }
  void round_block(const LowerPanels& inverse, index_t b, MatrixView<const float> panel,
                   RoundingTile& tile) const override {
    const index_t n = inverse.n;
    const index_t block_end = inverse.first_column(b) + panel.cols;
    for (index_t from = inverse.first_column(b); from < block_end;) {
      const index_t to = end_of_run(from, block_end, tile);
      if (tile.fit_group && from % tile.group_size == 0) {
        tile.fit_group(from, tile.work.middle_rows(from, std::min(tile.group_size, n - from)));
      }
      ColumnBlock run = block_of(inverse, b, panel, tile, from, to);
      run.base = run.target = tile.work.row(from);
      run.error = tile.target.data;
      tile.math->round_optq(run);
      // Its errors reach all later columns at once: w_{>run} += R_{run, >run}ᵀ error.
      tile.math->add_product({run.panel + run.width * run.panel_ld, run.panel_ld, 1},
                             tile.target.middle_rows(0, run.width),
                             tile.work.middle_rows(to, n - to));
      from = to;
    }
  }
};

}  // namespace

void HostMath::round_optq(const ColumnBlock& block) const {
  for_lane_groups(block, round_one_group, round_four_groups);
}

std::unique_ptr<Rounder> make_optq(const LayerOptions& /*options*/) {
  return std::make_unique<Optq>();
}

}  // namespace quip
