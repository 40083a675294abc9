// Coordinate descent on the proxy loss: from the unrounded weights (QuIP, supplement: Algorithm 4),
// or after another rounder. A pass takes the columns from the last to the first, and each the level
// that minimises the loss with all other columns as they are:
//   ŵₖ = Q(xₖ − Σ_{j≠k} sⱼ H_jk / H_kk),   s = ŵ − x.
// Cost 2n² flops a row and pass: the products with H are made anew, so nothing drifts.
#include <limits>
#include <utility>
#include <vector>

#include "column_kernels.hpp"

namespace quip {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

/// Goes through a block for Groups × `group_lanes` rows.
template <index_t Groups>
[[gnu::always_inline]] inline void descend(const ColumnBlock& b, float low) {
  constexpr index_t rows = Groups * group_lanes;
  for (index_t k = b.width - 1; k >= 0; --k) {
    float sum[rows];
    for (index_t r = 0; r < rows; ++r) sum[r] = b.target[k * b.ld + r];
    accumulate<rows>(sum, 0, k, b.panel + k * b.panel_ld, 1, b.error, b.ld);
    accumulate<rows>(sum, k + 1, b.width, b.panel + k, b.panel_ld, b.error, b.ld);
    const auto weight = static_cast<float>(1.0 / b.diagonal[k]);
    const float* inverse = row_of(b.grid.inverse, b.grid.group, k, b.ld);
    const float* step = row_of(b.grid.step, b.grid.group, k, b.ld);
    const float* offset = offset_of(b.offset, k, b.ld);
    for (index_t r = 0; r < rows; ++r) {
      // ŵₖ = Q(xₖ − Σ_{j≠k} sⱼ H_jk / H_kk)
      const float base = b.base[k * b.ld + r];
      const float target = base - sum[r] * weight;
      const float level = to_level(target * inverse[r], offset[r], low, b.top);
      const float s = level * step[r] - base;
      b.loss[r] += s != b.error[k * b.ld + r] ? 1.0 : 0.0;
      b.q[k * b.ld + r] = level;
      b.error[k * b.ld + r] = s;
    }
  }
}

QUIP_SIMD void inside_one_group(const ColumnBlock& block) { descend<1>(block, 0.0F); }
QUIP_SIMD void inside_four_groups(const ColumnBlock& block) { descend<4>(block, 0.0F); }
QUIP_SIMD void free_one_group(const ColumnBlock& block) { descend<1>(block, -infinity); }
QUIP_SIMD void free_four_groups(const ColumnBlock& block) { descend<4>(block, -infinity); }

/// out [width × lanes] = Σ_{j outside block b} H_jk sⱼ, j ascending; H is symmetric and its lower
/// triangle is stored.
void gather_outside(const RoundingMath& math, const LowerPanels& h, index_t b,
                    MatrixView<const float> s, MatrixView<float> out) {
  const index_t first = h.first_column(b);
  math.clear(out.data, at(out.size()) * sizeof(float));
  for (index_t c = 0; c < b; ++c) {
    const MatrixView<const float> panel = h.panel(c);
    math.add_product({panel.row(first - h.first_column(c)), panel.ld, 1},
                     s.middle_rows(h.first_column(c), panel.cols), out);
  }
  const MatrixView<const float> panel = h.panel(b);
  math.add_product({panel.row(panel.cols), 1, panel.ld},
                   s.middle_rows(first + panel.cols, panel.rows - panel.cols), out);
}

/// ŵ = x: s = 0, and the first pass rounds every column once.
class Unrounded final : public Rounder {
  [[nodiscard]] bool portable() const override { return true; }
  void start(RoundingTile& tile) const override {
    tile.math->unrounded_levels(tile.x, tile.grid, tile.q);
  }
};

/// Another rounder, then passes until one leaves all rows in use as they were.
class WithPasses final : public Rounder {
 public:
  WithPasses(std::unique_ptr<Rounder> first, int passes, Clamp clamp)
      : first_(std::move(first)), passes_(passes), inside_(clamp == Clamp::feedback) {}

  [[nodiscard]] bool portable() const override { return first_->portable(); }
  [[nodiscard]] Sweep sweep() const override {
    const Sweep sweep = first_->sweep();
    return {sweep.matrix, sweep.forward, false};
  }
  void start(RoundingTile& tile) const override { first_->start(tile); }
  void round_block(const LowerPanels& matrix, index_t b, MatrixView<const float> panel,
                   RoundingTile& tile) const override {
    first_->round_block(matrix, b, panel, tile);
  }
  int improve(const PreparedLayer& layer, RoundingTile& tile) const override;

 private:
  /// Returns the number of changes in each lane.
  [[nodiscard]] std::vector<double> pass(const LowerPanels& hessian, RoundingTile& tile,
                                         MatrixView<float> base) const;

  std::unique_ptr<Rounder> first_;
  int passes_;
  bool inside_;  ///< the grid, at every step
};

std::vector<double> WithPasses::pass(const LowerPanels& hessian, RoundingTile& tile,
                                     MatrixView<float> base) const {
  const RoundingMath& math = *tile.math;
  const auto changes = math.zeros<double>(1, base.cols, "changes of rows");
  for (index_t b = hessian.blocks() - 1; b >= 0; --b) {
    const index_t first = hessian.first_column(b);
    const MatrixView<float> target = tile.target.middle_rows(0, hessian.width(b));
    gather_outside(math, hessian, b, tile.work, target);
    ColumnBlock block = block_of(hessian, b, hessian.panel(b), tile);
    if (!inside_) block.top = infinity;
    block.base = base.row(first);
    block.target = target.data;
    block.error = tile.work.row(first);
    block.loss = changes.data;
    math.descend(block, inside_ ? 0.0F : -infinity);
  }
  if (!inside_) math.cut_levels(tile.grid, tile.top, tile.q, base);
  return math.fetched(changes);
}

int WithPasses::improve(const PreparedLayer& layer, RoundingTile& tile) const {
  const RoundingMath& math = *tile.math;
  const auto base = math.lanes<float>(tile.x.rows, tile.x.cols, "rows in the course of rounding");
  math.copy(tile.x, base);
  math.level_difference(tile.q, tile.grid, base, tile.work);
  for (int pass = 1; pass <= passes_; ++pass) {
    const std::vector<double> changes = this->pass(layer.hessian, tile, base);
    // A row at a fixed point stays there, so its bits do not depend on how long others take.
    if (std::all_of(changes.begin(), changes.begin() + tile.rows,
                    [](double count) { return count == 0; })) {
      return pass;
    }
  }
  return passes_;
}

}  // namespace

void HostMath::descend(const ColumnBlock& block, float low) const {
  if (low == 0) {
    for_lane_groups(block, inside_one_group, inside_four_groups);
  } else {
    for_lane_groups(block, free_one_group, free_four_groups);
  }
}

std::unique_ptr<Rounder> with_greedy_passes(std::unique_ptr<Rounder> first, int passes,
                                            Clamp clamp) {
  if (passes == 0) return first;
  return std::make_unique<WithPasses>(std::move(first), passes, clamp);
}

std::unique_ptr<Rounder> make_greedy(const LayerOptions& options) {
  return with_greedy_passes(std::make_unique<Unrounded>(), options.effective_passes(),
                            options.clamp);
}

}  // namespace quip
