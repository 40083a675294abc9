#include "linear_feedback.hpp"

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

}  // namespace

void round_block_with_feedback(const LowerPanels& feedback, index_t b,
                               MatrixView<const float> panel, const RoundingTile& tile,
                               MatrixView<float> q, MatrixView<float> error, float* target,
                               std::span<double> loss) {
  const index_t ld = q.ld;
  const index_t first = feedback.first_column(b);
  const index_t width = feedback.width(b);
  const index_t beyond = first + width;
  for (index_t k = 0; k < width; ++k) std::copy_n(tile.x.row(first + k), q.cols, target + k * ld);
  // target += (x − ŵ)_{>block} L_{>block, block}, transposed.
  ordered_gemm<float>(width, q.cols, feedback.n - beyond, {panel.row(width), 1, panel.ld},
                      error.row(beyond), ld, target, ld);
  BlockView block = block_of(feedback, b, panel, tile, q);
  block.base = tile.x.row(first);
  block.target = target;
  block.error = error.row(first);
  block.loss = loss.data();
  for_lane_groups(q.cols, block, round_one_group, round_four_groups);
}

void round_with_feedback(const LowerPanels& feedback, const RoundingTile& tile, MatrixView<float> q,
                         std::span<double> loss) {
  Matrix<float> error(feedback.n, q.ld);
  Buffer<float> target(LowerPanels::block * q.ld);
  std::fill(loss.begin(), loss.end(), 0.0);
  for (index_t b = feedback.blocks() - 1; b >= 0; --b) {
    round_block_with_feedback(feedback, b, feedback.panel(b), tile, q, error.view(), target.data(),
                              loss);
  }
}

}  // namespace quip
