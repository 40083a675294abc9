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

/// The columns of one block, from the last to the first, for `lanes` rows:
///   targetₖ = wₖ + Σ_{j>k} (wⱼ − ŵⱼ) L_jk,   ŵₖ = clamp(round(targetₖ), 0, top).
/// On entry `target` [width × ld] holds wₖ plus the feedback of all columns beyond the block.
QUIP_MULTIARCH
void round_block(index_t width, const float* panel, const double* d, float top, const float* w,
                 const float* target, float* error, float* q, double* loss, index_t ld) {
  for (index_t k = width - 1; k >= 0; --k) {
    float sum[lanes];
    for (index_t r = 0; r < lanes; ++r) sum[r] = target[k * ld + r];
    for (index_t j = k + 1; j < width; ++j) {
      const float feedback = panel[j * width + k];
      const float* column = error + j * ld;
      for (index_t r = 0; r < lanes; ++r) sum[r] += feedback * column[r];
    }
    const double weight = d[k];
    for (index_t r = 0; r < lanes; ++r) {
      const float rounded = std::min(std::max(std::floor(sum[r] + 0.5F), 0.0F), top);
      q[k * ld + r] = rounded;
      error[k * ld + r] = w[k * ld + r] - rounded;
      const double residual = static_cast<double>(rounded) - sum[r];
      loss[r] += weight * (residual * residual);
    }
  }
}

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
      for (index_t r = 0; r < w.cols; r += lanes) {
        round_block(width, panel.data, factor.d.data() + first, top, w.row(first) + r,
                    target.data() + r, error.data() + first * ld + r, q.row(first) + r,
                    loss.data() + r, ld);
      }
    }
  }
};

}  // namespace

std::unique_ptr<Rounder> make_ldlq() { return std::make_unique<Ldlq>(); }

}  // namespace quip
