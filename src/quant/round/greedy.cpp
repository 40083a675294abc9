// Coordinate descent on the proxy loss: from the unrounded weights (QuIP, supplement: Algorithm 4),
// or after another rounder. A pass takes the columns from the last to the first, and each the level
// that minimises the loss with all other columns as they are:
//   ŵₖ = Q(xₖ − Σ_{j≠k} sⱼ H_jk / H_kk),   s = ŵ − x.
// Cost 2n² flops a row and pass: the products with H are made anew, so nothing drifts.
#include <limits>
#include <utility>
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
    const MatrixView<const float> panel = h.panel(c);
    ordered_gemm<float>(width, lanes, panel.cols,
                        {panel.row(first - h.first_column(c)), panel.ld, 1},
                        s.row(h.first_column(c)), lanes, out.data(), lanes);
  }
  const MatrixView<const float> panel = h.panel(b);
  ordered_gemm<float>(width, lanes, panel.rows - width, {panel.data + width * width, 1, width},
                      s.data() + (first + width) * lanes, lanes, out.data(), lanes);
}

/// Cuts levels at the grid's ends and lets `base` = ŵ − s follow.
void clamp_levels(RoundingTile& tile, Matrix<float>& base) {
  for (index_t k = 0; k < base.rows(); ++k) {
    const float* step = tile.step.row(k);
    for (index_t r = 0; r < base.cols(); ++r) {
      const float cut = std::clamp(tile.q(k, r), 0.0F, tile.top);
      base(k, r) += (cut - tile.q(k, r)) * step[r];
      tile.q(k, r) = cut;
    }
  }
}

/// ŵ = x: s = 0, and the first pass rounds every column once.
class Unrounded final : public Rounder {
  void start(RoundingTile& tile) const override {
    for (index_t k = 0; k < tile.q.rows(); ++k) {
      const float* inverse = tile.inverse.row(k);
      for (index_t r = 0; r < tile.q.cols(); ++r) tile.q(k, r) = tile.x(k, r) * inverse[r];
    }
  }
};

/// Another rounder, then passes until one leaves all rows in use as they were.
class WithPasses final : public Rounder {
 public:
  WithPasses(std::unique_ptr<Rounder> first, int passes, Clamp clamp)
      : first_(std::move(first)), passes_(passes), inside_(clamp == Clamp::feedback) {}

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
  void pass(const LowerPanels& hessian, RoundingTile& tile, Matrix<float>& base,
            std::vector<double>& changes) const;

  std::unique_ptr<Rounder> first_;
  int passes_;
  bool inside_;  ///< the grid, at every step
};

void WithPasses::pass(const LowerPanels& hessian, RoundingTile& tile, Matrix<float>& base,
                      std::vector<double>& changes) const {
  for (index_t b = hessian.blocks() - 1; b >= 0; --b) {
    gather_outside(hessian, b, tile.work, tile.target);
    BlockView block = block_of(hessian, b, hessian.panel(b), tile);
    if (!inside_) block.top = std::numeric_limits<float>::infinity();
    block.base = base.row(hessian.first_column(b));
    block.target = tile.target.data();
    block.error = tile.work.row(hessian.first_column(b));
    block.loss = changes.data();
    if (inside_) {
      for_lane_groups(base.cols(), block, inside_one_group, inside_four_groups);
    } else {
      for_lane_groups(base.cols(), block, free_one_group, free_four_groups);
    }
  }
  if (!inside_) clamp_levels(tile, base);
}

int WithPasses::improve(const PreparedLayer& layer, RoundingTile& tile) const {
  if (passes_ == 0) return 0;
  Matrix<float> base(tile.x.rows, tile.x.cols);
  for (index_t k = 0; k < base.rows(); ++k) {
    const float* step = tile.step.row(k);
    for (index_t r = 0; r < base.cols(); ++r) {
      base(k, r) = tile.x(k, r);
      tile.work(k, r) = tile.q(k, r) * step[r] - base(k, r);
    }
  }
  for (int pass = 1; pass <= passes_; ++pass) {
    std::vector<double> changes(tile.loss.size(), 0.0);
    this->pass(layer.hessian, tile, base, changes);
    // A row at a fixed point stays there, so its bits do not depend on how long others take.
    if (std::all_of(changes.begin(), changes.begin() + tile.rows,
                    [](double count) { return count == 0; })) {
      return pass;
    }
  }
  return passes_;
}

}  // namespace

std::unique_ptr<Rounder> make_greedy(int passes, Clamp clamp) {
  return std::make_unique<WithPasses>(std::make_unique<Unrounded>(), passes, clamp);
}

// LDLQ-RG: LDLQ on columns sorted by diag(H), then greedy passes (QuIP, supplement).
std::unique_ptr<Rounder> make_ldlq_rg(int passes, Clamp clamp) {
  return std::make_unique<WithPasses>(make_ldlq(), passes, clamp);
}

// LDL-ADMM: the variant of LDLQ with a guarantee on finite grids (QuIP, supplement: Algorithm 5).
// The feedback is (I+Z)⁻¹ − I with Z's columns bounded (constrained_feedback.hpp), so that
// target − x, and with it what a clamp costs, stays bounded. Like the authors', its passes clamp
// every step: the guarantee survives them.
std::unique_ptr<Rounder> make_ldl_admm(int passes) {
  return std::make_unique<WithPasses>(make_ldlq(&PreparedLayer::feedback), passes, Clamp::feedback);
}

}  // namespace quip
