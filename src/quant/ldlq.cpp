// LDLQ: adaptive rounding with the linear feedback of the LDLᵀ factorisation (QuIP, §3.1).
#include <algorithm>
#include <cmath>

#include "simd.hpp"

#include "quip/linalg/ordered_gemm.hpp"
#include "quip/quant/rounder.hpp"
#include "quip/quant/tiles.hpp"

namespace quip {
namespace {

constexpr index_t lanes = RowTiles::lane_unit;

/// One block of one tile; all pointers step by `ld` from column to column.
struct BlockView {
  index_t width;
  const float* panel;  ///< the block's part of L, rows `width` apart
  const double* d;
  float top;
  const float* w;
  const float* target;
  float* error;
  float* q;
  double* loss;
  index_t ld;
};

/// The columns of one block, from the last to the first, for Groups × `lanes` rows:
///   targetₖ = wₖ + Σ_{j>k} (wⱼ − ŵⱼ) L_jk,   ŵₖ = clamp(round(targetₖ), 0, top).
/// On entry `target` holds wₖ plus the feedback of all columns beyond the block. More groups are
/// more independent chains of multiply-adds: one or two would leave the units waiting.
template <index_t Groups>
[[gnu::always_inline]] inline void round_columns(const BlockView& b) {
  constexpr index_t rows = Groups * lanes;
  for (index_t k = b.width - 1; k >= 0; --k) {
    float sum[rows];
    for (index_t r = 0; r < rows; ++r) sum[r] = b.target[k * b.ld + r];
    for (index_t j = k + 1; j < b.width; ++j) {
      const float feedback = b.panel[j * b.width + k];
      const float* column = b.error + j * b.ld;
      for (index_t r = 0; r < rows; ++r) sum[r] += feedback * column[r];
    }
    const double weight = b.d[k];
    for (index_t r = 0; r < rows; ++r) {
      const float rounded = std::min(std::max(std::floor(sum[r] + 0.5F), 0.0F), b.top);
      b.q[k * b.ld + r] = rounded;
      b.error[k * b.ld + r] = b.w[k * b.ld + r] - rounded;
      const double residual = static_cast<double>(rounded) - sum[r];
      b.loss[r] += weight * (residual * residual);
    }
  }
}

QUIP_MULTIARCH void round_one_group(const BlockView& block) { round_columns<1>(block); }
QUIP_MULTIARCH void round_four_groups(const BlockView& block) { round_columns<4>(block); }

class Ldlq final : public Rounder {
 public:
  void round(const LdlFactor& factor, float top, MatrixView<const float> w, MatrixView<float> q,
             std::span<double> loss) const override {
    const index_t n = factor.n;
    const index_t ld = w.ld;
    Buffer<float> error(n * ld);
    Buffer<float> target(LdlFactor::block * ld);
    std::fill(loss.begin(), loss.end(), 0.0);
    for (index_t b = factor.blocks() - 1; b >= 0; --b) {
      const index_t first = factor.first_column(b);
      const index_t width = factor.width(b);
      const index_t beyond = first + width;
      const MatrixView<float> panel = factor.panel(b);
      std::copy_n(w.row(first), width * ld, target.data());
      // target += (W − Ŵ)_{>block} L_{>block, block}, transposed.
      ordered_gemm<float>(width, w.cols, n - beyond, {panel.data + width * width, 1, width},
                          error.data() + beyond * ld, ld, target.data(), ld);
      BlockView block{width,
                      panel.data,
                      factor.d.data() + first,
                      top,
                      w.row(first),
                      target.data(),
                      error.data() + first * ld,
                      q.row(first),
                      loss.data(),
                      ld};
      for (index_t r = 0; r < w.cols;) {
        const bool four = w.cols - r >= 4 * lanes;
        (four ? round_four_groups : round_one_group)(block);
        const index_t step = four ? 4 * lanes : lanes;
        block.w += step;
        block.target += step;
        block.error += step;
        block.q += step;
        block.loss += step;
        r += step;
      }
    }
  }
};

}  // namespace

std::unique_ptr<Rounder> make_ldlq() { return std::make_unique<Ldlq>(); }

}  // namespace quip
