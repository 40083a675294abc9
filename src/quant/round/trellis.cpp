// Block LDLQ with a trellis (QuIP#, QTIP): tiles of 16 columns are coded together, so that feedback
// goes from tile to tile. With scalar L of H = (L+I) D (L+I)ᵀ and e = x − ŵ, a tile's columns k get
//   fₖ = Σ_{j beyond the tile} eⱼ L_jk,   t (L_tile + I) = f,   targetₖ = xₖ + tₖ,
// which is what the factor in blocks of 16 would give: L_block = L (L_tile + I)⁻¹. With feedback
// inside the tile its loss is that of D_tile = (L_tile + I) D (L_tile + I)ᵀ.
#include <mutex>
#include <utility>
#include <vector>

#include "column_kernels.hpp"

#include "quip/quant/trellis/feedback.hpp"
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

  template <typename Search>
  [[nodiscard]] Owner take(const Search& search) {
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
        search_(trellis::make_tile_search(options.trellis, options.bits)) {
    if (options.trellis_feedback == TrellisFeedback::step) {
      step_search_ = trellis::make_feedback_search(options.trellis, options.bits);
    }
  }

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
    Workspaces::Owner workspace =
        step_search_ ? workspaces_.take(*step_search_) : workspaces_.take(*search_);
    for (index_t k = width - tile_side; k >= 0; k -= tile_side) {
      if (feedback_) add_feedback(panel, k, first, tile, target);
      const std::vector<float> targets = steps_of(target, k);
      std::uint16_t* const states = states_at(tile, first + k);
      const index_t count = target.cols / tile_side;
      if (step_search_) {
        const trellis::TileFeedback feedback(block_of(panel, factor.diagonal_of(b), k).cview());
        step_search_->encode(targets.data(), count, feedback, *workspace, states);
      } else {
        search_->encode(targets.data(), count, *workspace, states);
      }
      take_values(first + k, tile);
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

  /// Returns the targets of the tiles at columns [k, k + 16) of a block, in the order of steps.
  static std::vector<float> steps_of(MatrixView<const float> target, index_t k) {
    std::vector<float> steps(at(target.cols * tile_side));
    for (index_t i = 0; i < std::ssize(steps); ++i) {
      const trellis::TilePlace place = trellis::place_of(static_cast<int>(i % tile_steps));
      steps[at(i)] = target(k + place.input, i / tile_steps * tile_side + place.output);
    }
    return steps;
  }

  /// Returns the states of the tiles from column `first` on.
  static std::uint16_t* states_at(const RoundingTile& tile, index_t first) {
    return tile.states.row(first / tile_side * (tile.x.cols / tile_side));
  }

  /// Writes values and errors of the tiles from column `first` on.
  void take_values(index_t first, RoundingTile& tile) const {
    std::vector<float> values(at(tile.x.cols * tile_side));
    trellis::decode_states(codebook_, states_at(tile, first), std::ssize(values), values.data());
    for (index_t i = 0; i < std::ssize(values); ++i) {
      const trellis::TilePlace place = trellis::place_of(static_cast<int>(i % tile_steps));
      const index_t column = first + place.input;
      const index_t lane = i / tile_steps * tile_side + place.output;
      tile.q(column, lane) = values[at(i)];
      tile.work(column, lane) = tile.x(column, lane) - values[at(i)];
    }
  }

  trellis::Codebook codebook_;
  bool feedback_;
  std::unique_ptr<trellis::TileSearch> search_;
  std::unique_ptr<trellis::FeedbackSearch> step_search_;  ///< null: no feedback inside tiles
  mutable Workspaces workspaces_;
};

}  // namespace

std::unique_ptr<Rounder> make_trellis_rounder(const LayerOptions& options) {
  return std::make_unique<TrellisRounder>(options);
}

}  // namespace quip
