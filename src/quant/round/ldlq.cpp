// LDLQ: adaptive rounding with the linear feedback of the LDLᵀ factorisation (QuIP, §3.1), and with
// any other: from the last column to the first, with a strictly lower triangular L,
//   ŵₖ = clamp(Q(xₖ + Σ_{j>k} (xⱼ − ŵⱼ) L_jk), 0, top).
// Cost n² flops a row: inside a block of columns one after the other, everything beyond it one
// product.
#include "column_kernels.hpp"

#include "quip/linalg/ordered_gemm.hpp"

namespace quip {
namespace {

/// The columns of one block, for Groups × `group_lanes` rows. On entry `target` holds xₖ (`base`)
/// plus the feedback of all columns beyond the block; `error` receives x − ŵ.
template <index_t Groups>
[[gnu::always_inline]] inline void round_columns(const BlockView& b) {
  constexpr index_t rows = Groups * group_lanes;
  for (index_t k = b.width - 1; k >= 0; --k) {
    // targetₖ = xₖ + Σ_{j>k} (xⱼ − ŵⱼ) L_jk
    float sum[rows];
    for (index_t r = 0; r < rows; ++r) sum[r] = b.target[k * b.ld + r];
    accumulate<rows>(sum, k + 1, b.width, b.panel + k, b.panel_ld, b.error, b.ld);
    // ŵₖ = step · clamp(Q(targetₖ / step), 0, top)
    const double weight = b.diagonal[k];
    for (index_t r = 0; r < rows; ++r) {
      const float level = to_level(sum[r] * b.inverse[k * b.inverse_ld + r],
                                   b.offset[k * b.offset_ld + r], 0.0F, b.top);
      const float rounded = level * b.step[k * b.step_ld + r];
      b.q[k * b.ld + r] = level;
      b.error[k * b.ld + r] = b.base[k * b.ld + r] - rounded;
      const double residual = static_cast<double>(rounded) - sum[r];
      b.loss[r] += weight * (residual * residual);
    }
  }
}

QUIP_SIMD void round_one_group(const BlockView& block) { round_columns<1>(block); }
QUIP_SIMD void round_four_groups(const BlockView& block) { round_columns<4>(block); }

class Ldlq final : public Rounder {
 public:
  explicit Ldlq(LowerPanels PreparedLayer::*feedback) : feedback_(feedback) {}

  // With H = (L+I) D (L+I)ᵀ the loss is tr((ŵ−target) D (ŵ−target)ᵀ): what the loop adds up.
  [[nodiscard]] Sweep sweep() const override {
    return {.matrix = feedback_, .knows_loss = feedback_ == &PreparedLayer::factor};
  }
  void round_block(const LowerPanels& feedback, index_t b, MatrixView<const float> panel,
                   RoundingTile& tile) const override {
    const index_t lanes = tile.q.cols();
    const index_t first = feedback.first_column(b);
    const index_t width = feedback.width(b);
    const index_t beyond = first + width;
    for (index_t k = 0; k < width; ++k) {
      std::copy_n(tile.x.row(first + k), lanes, tile.target.row(k));
    }
    // target += (x − ŵ)_{>block} L_{>block, block}, transposed.
    ordered_gemm<float>(width, lanes, feedback.n - beyond, {panel.row(width), 1, panel.ld},
                        tile.work.row(beyond), lanes, tile.target.data(), lanes);
    BlockView block = block_of(feedback, b, panel, tile);
    block.base = tile.x.row(first);
    block.target = tile.target.data();
    block.error = tile.work.row(first);
    for_lane_groups(lanes, block, round_one_group, round_four_groups);
  }

 private:
  LowerPanels PreparedLayer::*feedback_;
};

}  // namespace

std::unique_ptr<Rounder> make_ldlq(LowerPanels PreparedLayer::*feedback) {
  return std::make_unique<Ldlq>(feedback);
}

}  // namespace quip
