// OPTQ (GPTQ, arXiv 2210.17323): after each column the weights still to come move to make up for
// its error. Kept apart from LDLQ, with which it must agree (QuIP, Theorem 6).
#include "column_kernels.hpp"

#include "quip/linalg/ordered_gemm.hpp"

namespace quip {
namespace {

/// With the upper Cholesky factor R of H⁻¹ = RᵀR (its rows over their diagonal are the panel's
/// columns: panel_jk = R_kj/R_kk), from the first column to the last:
///   ŵₖ = clamp(Q(wₖ)),   w_j ← w_j − (wₖ − ŵₖ)/R_kk · R_kj for all j > k.
/// `target` holds w as all columns before the block have left it; those of the block itself are
/// added when a column's turn comes. `error` receives ŵₖ − wₖ, `diagonal` is 1/R_kk².
template <index_t Groups>
[[gnu::always_inline]] inline void round_columns(const BlockView& b) {
  constexpr index_t rows = Groups * group_lanes;
  for (index_t k = 0; k < b.width; ++k) {
    float w[rows];
    for (index_t r = 0; r < rows; ++r) w[r] = b.target[k * b.ld + r];
    accumulate<rows>(w, 0, k, b.panel + k * b.width, 1, b.error, b.ld);
    const double weight = b.diagonal[k];
    for (index_t r = 0; r < rows; ++r) {
      const float level = to_level(w[r] * b.inverse[k * b.inverse_ld + r],
                                   b.offset[k * b.offset_ld + r], 0.0F, b.top);
      const float error = level * b.step[k * b.step_ld + r] - w[r];
      b.q[k * b.ld + r] = level;
      b.error[k * b.ld + r] = error;
      b.loss[r] += weight * (static_cast<double>(error) * error);  // (ŵₖ − wₖ)²/R_kk²
    }
  }
}

QUIP_MULTIARCH void round_one_group(const BlockView& block) { round_columns<1>(block); }
QUIP_MULTIARCH void round_four_groups(const BlockView& block) { round_columns<4>(block); }

class Optq final : public Rounder {
 public:
  int round(const PreparedLayer& layer, const RoundingTile& tile, MatrixView<float> q,
            std::span<double> loss) const override {
    const LowerPanels& inverse = layer.feedback;
    const index_t n = inverse.n;
    const index_t ld = q.ld;
    Buffer<float> w(n * ld);
    for (index_t k = 0; k < n; ++k) std::copy_n(tile.x.row(k), q.cols, w.data() + k * ld);
    Buffer<float> error(LowerPanels::block * ld);
    std::fill(loss.begin(), loss.end(), 0.0);
    for (index_t b = 0; b < inverse.blocks(); ++b) {
      const index_t first = inverse.first_column(b);
      const index_t width = inverse.width(b);
      BlockView block = block_of(inverse, b, tile, q);
      block.base = block.target = w.data() + first * ld;
      block.error = error.data();
      block.loss = loss.data();
      for_lane_groups(q.cols, block, round_one_group, round_four_groups);
      // The block's errors reach all later columns at once: w_{>block} += R_{block, >block}ᵀ error.
      const index_t beyond = first + width;
      ordered_gemm<float>(n - beyond, q.cols, width, {block.panel + width * width, width, 1},
                          error.data(), ld, w.data() + beyond * ld, ld);
    }
    return 0;
  }
};

}  // namespace

std::unique_ptr<Rounder> make_optq() { return std::make_unique<Optq>(); }

}  // namespace quip
