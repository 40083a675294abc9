// Block LDLQ with a trellis (QuIP#, QTIP): tiles of 16 columns are coded together, so that feedback
// goes from tile to tile. With scalar L of H = (L+I) D (L+I)ᵀ and e = x − ŵ, a tile's columns k get
//   fₖ = Σ_{j beyond the tile} eⱼ L_jk,   t (L_tile + I) = f,   targetₖ = xₖ + tₖ,
// which is what the factor in blocks of 16 would give: L_block = L (L_tile + I)⁻¹. With feedback
// inside the tile its loss is that of D_tile = (L_tile + I) D (L_tile + I)ᵀ.
#include <mutex>

#include "host_math.hpp"

#include "quip/quant/round/rounder.hpp"
#include "quip/quant/trellis/tile.hpp"

namespace quip {
namespace {

using trellis::tile_side;
using trellis::tile_steps;

/// All its tiles lie in the memory of one RoundingMath.
class TrellisRounder final : public Rounder {
 public:
  explicit TrellisRounder(const LayerOptions& options)
      : codebook_(options.trellis),
        bits_(options.bits),
        feedback_(options.feedback() == Feedback::factor),
        by_step_(options.trellis_feedback == TrellisFeedback::step) {}

  [[nodiscard]] bool portable() const override { return !by_step_; }
  // Losses are measured on the layer as it is decoded.
  [[nodiscard]] Sweep sweep() const override {
    return {.matrix = &PreparedLayer::factor, .knows_loss = true};
  }
  void start(RoundingTile& tile) const override {
    std::call_once(made_, [&] {
      coder_ =
          by_step_ ? make_step_coder(codebook_, bits_) : tile.math->tile_coder(codebook_, bits_);
    });
    tile.states = tile.math->lanes<std::uint16_t>(
        tile.x.rows / tile_side * (tile.x.cols / tile_side), tile_steps, "states of tiles");
  }
  void round_block(const LowerPanels& factor, index_t b, MatrixView<const float> panel,
                   RoundingTile& tile) const override {
    const index_t first = factor.first_column(b);
    const index_t width = panel.cols;
    const MatrixView<float> target = tile.target.middle_rows(0, width);
    tile.math->copy(tile.x.middle_rows(first, width), target);
    if (feedback_) {
      const index_t beyond = panel.rows - width;
      tile.math->add_product({panel.row(width), 1, panel.ld},
                             tile.work.middle_rows(first + width, beyond), target);
    }
    for (index_t k = width - tile_side; k >= 0; k -= tile_side) {
      const MatrixView<float> part = target.middle_rows(k, tile_side);
      if (feedback_) add_feedback(panel, k, first, tile, part);
      const Matrix<double> block =
          by_step_ ? block_of(panel, factor.diagonal_of(b), k) : Matrix<double>();
      code(first + k, part, block.cview(), tile);
    }
  }

 private:
  /// Completes the targets of the tiles at columns [k, k + 16) of a block.
  static void add_feedback(MatrixView<const float> panel, index_t k, index_t first,
                           const RoundingTile& tile, MatrixView<float> target) {
    const index_t last = k + tile_side;
    tile.math->add_product({panel.row(last) + k, 1, panel.ld},
                           tile.work.middle_rows(first + last, panel.cols - last), target);
    tile.math->solve_tile(panel.middle_rows(k, tile_side).middle_cols(k, tile_side),
                          tile.x.middle_rows(first + k, tile_side), target);
  }

  /// Returns D_tile of the tiles at columns [k, k + 16) of a block.
  static Matrix<double> block_of(MatrixView<const float> panel, const double* diagonal, index_t k) {
    Matrix<double> block(tile_side, tile_side, 0.0);
    const auto factor = [&](index_t i, index_t j) {
      return i == j ? 1.0 : double{panel(k + i, k + j)};
    };
    for (index_t i = 0; i < tile_side; ++i) {
      for (index_t j = 0; j <= i; ++j) {
        for (index_t c = 0; c <= j; ++c) {
          block(i, j) += factor(i, c) * diagonal[k + c] * factor(j, c);
        }
      }
    }
    return block;
  }

  /// Codes the tiles at positions [k, k + 16), and writes values and errors.
  void code(index_t k, MatrixView<const float> target, MatrixView<const double> block,
            const RoundingTile& tile) const {
    coder_->code({.x = tile.x.middle_rows(k, tile_side),
                  .target = target,
                  .block = block,
                  .q = tile.q.middle_rows(k, tile_side),
                  .error = tile.work.middle_rows(k, tile_side),
                  .states = tile.states.row(k / tile_side * (target.cols / tile_side))});
  }

  trellis::Codebook codebook_;
  int bits_;
  bool feedback_;
  bool by_step_;
  mutable std::once_flag made_;
  mutable std::unique_ptr<TileCoder> coder_;
};

}  // namespace

std::unique_ptr<Rounder> make_trellis_rounder(const LayerOptions& options) {
  return std::make_unique<TrellisRounder>(options);
}

}  // namespace quip
