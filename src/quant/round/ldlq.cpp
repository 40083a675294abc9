// LDLQ: adaptive rounding with the linear feedback of the LDLᵀ factorisation (QuIP, §3.1), and with
// any other: from the last column to the first, with a strictly lower triangular L,
//   ŵₖ = clamp(Q(xₖ + Σ_{j>k} (xⱼ − ŵⱼ) L_jk), 0, top).
// Cost n² flops a row: inside a block of columns one after the other, everything beyond it one
// product.
#include "column_kernels.hpp"

namespace quip {
namespace {

/// Rounds Groups × `group_lanes` rows of a block.
template <index_t Groups>
[[gnu::always_inline]] inline void round_columns(const ColumnBlock& b) {
  constexpr index_t rows = Groups * group_lanes;
  for (index_t k = b.width - 1; k >= 0; --k) {
    // targetₖ = xₖ + Σ_{j>k} (xⱼ − ŵⱼ) L_jk
    float sum[rows];
    for (index_t r = 0; r < rows; ++r) sum[r] = b.target[k * b.ld + r];
    accumulate<rows>(sum, k + 1, b.width, b.panel + k, b.panel_ld, b.error, b.ld);
    // ŵₖ = step · clamp(Q(targetₖ / step), 0, top)
    const double weight = b.diagonal[k];
    const float* inverse = row_of(b.grid.inverse, b.grid.group, k, b.ld);
    const float* step = row_of(b.grid.step, b.grid.group, k, b.ld);
    const float* offset = offset_of(b.offset, k, b.ld);
    for (index_t r = 0; r < rows; ++r) {
      const float level = to_level(sum[r] * inverse[r], offset[r], 0.0F, b.top);
      const float rounded = level * step[r];
      b.q[k * b.ld + r] = level;
      b.error[k * b.ld + r] = b.base[k * b.ld + r] - rounded;
      const double residual = static_cast<double>(rounded) - sum[r];
      b.loss[r] += weight * (residual * residual);
    }
  }
}

QUIP_SIMD void round_one_group(const ColumnBlock& block) { round_columns<1>(block); }
QUIP_SIMD void round_four_groups(const ColumnBlock& block) { round_columns<4>(block); }

class Ldlq final : public Rounder {
 public:
  explicit Ldlq(LowerPanels PreparedLayer::*feedback) : feedback_(feedback) {}

  [[nodiscard]] bool portable() const override { return true; }
  // With H = (L+I) D (L+I)ᵀ the loss is tr((ŵ−target) D (ŵ−target)ᵀ): what the loop adds up.
  [[nodiscard]] Sweep sweep() const override {
    return {.matrix = feedback_, .knows_loss = feedback_ == &PreparedLayer::factor};
  }
  void round_block(const LowerPanels& feedback, index_t b, MatrixView<const float> panel,
                   RoundingTile& tile) const override {
    const index_t first = feedback.first_column(b);
    const index_t width = panel.cols;
    const index_t beyond = panel.rows - width;
    const MatrixView<float> target = tile.target.middle_rows(0, width);
    tile.math->copy(tile.x.middle_rows(first, width), target);
    // target += (x − ŵ)_{>block} L_{>block, block}, transposed.
    tile.math->add_product({panel.row(width), 1, panel.ld},
                           tile.work.middle_rows(first + width, beyond), target);
    ColumnBlock block = block_of(feedback, b, panel, tile);
    block.base = tile.x.row(first);
    block.target = target.data;
    block.error = tile.work.row(first);
    tile.math->round_with_feedback(block);
  }

 private:
  LowerPanels PreparedLayer::*feedback_;
};

}  // namespace

void HostMath::round_with_feedback(const ColumnBlock& block) const {
  for_lane_groups(block, round_one_group, round_four_groups);
}

// LDLQ-RG, too: LDLQ on columns sorted by diag(H), then greedy passes (QuIP, supplement).
std::unique_ptr<Rounder> make_ldlq(const LayerOptions& options) {
  if (options.has_trellis()) return make_trellis_rounder(options);
  return with_greedy_passes(std::make_unique<Ldlq>(&PreparedLayer::factor),
                            options.effective_passes(), options.clamp);
}

// LDL-ADMM: the variant of LDLQ with a guarantee on finite grids (QuIP, supplement: Algorithm 5).
// The feedback is (I+Z)⁻¹ − I with Z's columns bounded (constrained_feedback.hpp), so that
// target − x, and with it what a clamp costs, stays bounded. Like the authors', its passes clamp
// every step: the guarantee survives them.
std::unique_ptr<Rounder> make_ldl_admm(const LayerOptions& options) {
  return with_greedy_passes(std::make_unique<Ldlq>(&PreparedLayer::feedback),
                            options.effective_passes(), Clamp::feedback);
}

}  // namespace quip
