#include "greedy_passes.hpp"

#include <limits>
#include <vector>

#include "column_kernels.hpp"

#include "quip/linalg/ordered_gemm.hpp"

namespace quip {
namespace {

/// The columns of one block, for Groups × `group_lanes` rows. `target` holds Σⱼ sⱼ H_jk over all j
/// outside the block, `error` is s, `base` is x (less what clamping has cut), and `loss` counts the
/// elements of s that changed: s and `base` are all that the next sweep depends on. The grid's ends
/// are `low` and the view's top.
template <index_t Groups>
[[gnu::always_inline]] inline void descend(const BlockView& b, float low) {
  constexpr index_t rows = Groups * group_lanes;
  for (index_t k = b.width - 1; k >= 0; --k) {
    float sum[rows];
    for (index_t r = 0; r < rows; ++r) sum[r] = b.target[k * b.ld + r];
    accumulate<rows>(sum, 0, k, b.panel + k * b.panel_ld, 1, b.error, b.ld);
    accumulate<rows>(sum, k + 1, b.width, b.panel + k, b.panel_ld, b.error, b.ld);
    const auto weight = static_cast<float>(1.0 / b.diagonal[k]);
    for (index_t r = 0; r < rows; ++r) {
      // ŵₖ = Q(xₖ − Σ_{j≠k} sⱼ H_jk / H_kk)
      const float base = b.base[k * b.ld + r];
      const float target = base - sum[r] * weight;
      const float level = to_level(target * b.inverse[k * b.inverse_ld + r],
                                   b.offset[k * b.offset_ld + r], low, b.top);
      const float s = level * b.step[k * b.step_ld + r] - base;
      b.loss[r] += s != b.error[k * b.ld + r] ? 1.0 : 0.0;
      b.q[k * b.ld + r] = level;
      b.error[k * b.ld + r] = s;
    }
  }
}

QUIP_SIMD void inside_one_group(const BlockView& block) { descend<1>(block, 0.0F); }
QUIP_SIMD void inside_four_groups(const BlockView& block) { descend<4>(block, 0.0F); }
QUIP_SIMD void free_one_group(const BlockView& block) {
  descend<1>(block, -std::numeric_limits<float>::infinity());
}
QUIP_SIMD void free_four_groups(const BlockView& block) {
  descend<4>(block, -std::numeric_limits<float>::infinity());
}

/// out [width × lanes] = Σ_{j outside block b} H_jk sⱼ, j ascending; H is symmetric and its lower
/// triangle is stored.
void gather_outside(const LowerPanels& h, index_t b, const Matrix<float>& s, Matrix<float>& out) {
  const index_t first = h.first_column(b);
  const index_t width = h.width(b);
  const index_t lanes = s.cols();
  std::fill_n(out.data(), width * lanes, 0.0F);
  for (index_t c = 0; c < b; ++c) {
    const MatrixView<float> panel = h.panel(c);
    ordered_gemm<float>(width, lanes, panel.cols,
                        {panel.row(first - h.first_column(c)), panel.ld, 1},
                        s.row(h.first_column(c)), lanes, out.data(), lanes);
  }
  const MatrixView<float> panel = h.panel(b);
  ordered_gemm<float>(width, lanes, panel.rows - width, {panel.data + width * width, 1, width},
                      s.data() + (first + width) * lanes, lanes, out.data(), lanes);
}

/// Cuts levels at the grid's ends and lets `base` = ŵ − s follow.
void clamp_levels(const RoundingTile& tile, MatrixView<float> q, Matrix<float>& base) {
  for (index_t k = 0; k < q.rows; ++k) {
    const float* step = tile.step.row(k);
    for (index_t r = 0; r < q.cols; ++r) {
      const float cut = std::clamp(q(k, r), 0.0F, tile.top);
      base(k, r) += (cut - q(k, r)) * step[r];
      q(k, r) = cut;
    }
  }
}

}  // namespace

int greedy_passes(const LowerPanels& hessian, const RoundingTile& tile, int passes, Clamp clamp,
                  MatrixView<float> q) {
  const index_t lanes = q.cols;
  const bool inside = clamp == Clamp::feedback;
  Matrix<float> base(hessian.n, lanes);
  Matrix<float> s(hessian.n, lanes);
  Matrix<float> target(LowerPanels::block, lanes);
  for (index_t k = 0; k < hessian.n; ++k) {
    for (index_t r = 0; r < lanes; ++r) {
      base(k, r) = tile.x(k, r);
      s(k, r) = q(k, r) * tile.step.row(k)[r] - base(k, r);
    }
  }
  std::vector<double> changes(static_cast<std::size_t>(lanes));
  for (int pass = 1; pass <= passes; ++pass) {
    std::fill(changes.begin(), changes.end(), 0.0);
    for (index_t b = hessian.blocks() - 1; b >= 0; --b) {
      gather_outside(hessian, b, s, target);
      BlockView block = block_of(hessian, b, tile, q);
      if (!inside) block.top = std::numeric_limits<float>::infinity();
      block.base = base.row(hessian.first_column(b));
      block.target = target.data();
      block.error = s.row(hessian.first_column(b));
      block.loss = changes.data();
      if (inside) {
        for_lane_groups(lanes, block, inside_one_group, inside_four_groups);
      } else {
        for_lane_groups(lanes, block, free_one_group, free_four_groups);
      }
    }
    if (!inside) clamp_levels(tile, q, base);
    // A row at a fixed point stays there, so its bits do not depend on how long others take.
    if (std::all_of(changes.begin(), changes.begin() + tile.rows,
                    [](double count) { return count == 0; })) {
      return pass;
    }
  }
  return passes;
}

int GreedyRounder::round(const PreparedLayer& layer, const RoundingTile& tile, MatrixView<float> q,
                         std::span<double> loss) const {
  start(layer, tile, q, loss);
  const int used = passes_ > 0 ? greedy_passes(layer.hessian, tile, passes_, clamp_, q) : 0;
  measure_loss(layer.factor, tile, q, loss);
  return used;
}

}  // namespace quip
