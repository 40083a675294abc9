// Block LDLQ with a trellis (QuIP#, QTIP): tiles of 16 columns are coded together, so that feedback
// goes from tile to tile. With scalar L of H = (L+I) D (L+I)ᵀ and e = x − ŵ, a tile's columns k get
//   fₖ = Σ_{j beyond the tile} eⱼ L_jk,   t (L_tile + I) = f,   targetₖ = xₖ + tₖ,
// which is what the factor in blocks of 16 would give: L_block = L (L_tile + I)⁻¹.
#include <mutex>
#include <utility>
#include <vector>

#include "column_kernels.hpp"

#include "quip/quant/trellis/search.hpp"
#include "quip/quant/trellis/tile.hpp"

namespace quip {
namespace {

using trellis::tile_side;
using trellis::tile_steps;

/// Lends workspaces: as many as there are threads at work.
class Workspaces {
 public:
  using Owner = std::unique_ptr<trellis::TileSearch::Workspace>;

  [[nodiscard]] Owner take(const trellis::TileSearch& search) {
    {
      const std::scoped_lock lock(mutex_);
      if (!idle_.empty()) {
        Owner last = std::move(idle_.back());
        idle_.pop_back();
        return last;
      }
    }
    return search.workspace();
  }
  void give_back(Owner workspace) {
    const std::scoped_lock lock(mutex_);
    idle_.push_back(std::move(workspace));
  }

 private:
  std::mutex mutex_;
  std::vector<Owner> idle_;
};

class TrellisRounder final : public Rounder {
 public:
  explicit TrellisRounder(const LayerOptions& options)
      : codebook_(options.trellis),
        feedback_(options.feedback() == Feedback::factor),
        search_(trellis::make_tile_search(options.trellis, options.bits)) {}

  // Losses are measured on the layer as it is decoded.
  [[nodiscard]] Sweep sweep() const override {
    return {.matrix = &PreparedLayer::factor, .knows_loss = true};
  }
  void start(RoundingTile& tile) const override {
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
    Workspaces::Owner workspace = workspaces_.take(*search_);
    for (index_t k = width - tile_side; k >= 0; k -= tile_side) {
      if (feedback_) add_feedback(panel, k, first, tile, target);
      code(k, first, target, tile, *workspace);
    }
    workspaces_.give_back(std::move(workspace));
  }

 private:
  /// Completes the targets of the tiles at columns [k, k + 16) of a block.
  static void add_feedback(MatrixView<const float> panel, index_t k, index_t first,
                           const RoundingTile& tile, MatrixView<float> target) {
    const index_t lanes = target.cols;
    const index_t last = k + tile_side;
    tile.math->add_product({panel.row(last) + k, 1, panel.ld},
                           tile.work.middle_rows(first + last, panel.cols - last),
                           target.middle_rows(k, tile_side));
    // target − x is f now; from the last column on it becomes t.
    for (index_t i = last - 1; i >= k; --i) {
      float* const row = target.row(i);
      for (index_t j = i + 1; j < last; ++j) {
        const float factor = panel(j, i);
        const float* const later = target.row(j);
        const float* const base = tile.x.row(first + j);
        for (index_t r = 0; r < lanes; ++r) row[r] -= factor * (later[r] - base[r]);
      }
    }
  }

  /// Codes the tiles at columns [k, k + 16) of a block, and writes values and errors.
  void code(index_t k, index_t first, MatrixView<const float> target, RoundingTile& tile,
            trellis::TileSearch::Workspace& workspace) const {
    const index_t across = target.cols / tile_side;
    std::uint16_t* const states = tile.states.row((first + k) / tile_side * across);
    std::vector<float> steps(at(across * tile_steps));
    for (index_t t = 0; t < across; ++t) {
      for (int step = 0; step < tile_steps; ++step) {
        const trellis::TilePlace place = trellis::place_of(step);
        steps[at(t * tile_steps + step)] = target(k + place.input, t * tile_side + place.output);
      }
    }
    search_->encode(steps.data(), across, workspace, states);
    trellis::decode_states(codebook_, states, across * tile_steps, steps.data());
    for (index_t t = 0; t < across; ++t) {
      for (int step = 0; step < tile_steps; ++step) {
        const trellis::TilePlace place = trellis::place_of(step);
        const index_t column = first + k + place.input;
        const index_t lane = t * tile_side + place.output;
        const float value = steps[at(t * tile_steps + step)];
        tile.q(column, lane) = value;
        tile.work(column, lane) = tile.x(column, lane) - value;
      }
    }
  }

  trellis::Codebook codebook_;
  bool feedback_;
  std::unique_ptr<trellis::TileSearch> search_;
  mutable Workspaces workspaces_;
};

}  // namespace

std::unique_ptr<Rounder> make_trellis_rounder(const LayerOptions& options) {
  return std::make_unique<TrellisRounder>(options);
}

}  // namespace quip
