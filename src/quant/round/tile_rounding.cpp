#include "tile_rounding.hpp"

#include <algorithm>

#include "dither.hpp"

#include "quip/core/range.hpp"
#include "quip/core/usage.hpp"
#include "quip/quant/code/grid.hpp"
#include "quip/quant/factor/work.hpp"

namespace quip {
namespace {

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

/// True if the panels that the rounder takes are those that losses are measured with, so that they
/// need to come but once.
bool measured_underway(const Sweep& sweep) {
  return sweep.matrix == &PreparedLayer::factor && sweep.knows_loss;
}

/// Subtracts Σₖ addedₖ value(k, r)² from norm[r]: what damping contributed.
template <typename Value>
void subtract_damping(const std::vector<double>& added, Value value, std::vector<double>& norm) {
  for (index_t k = 0; k < std::ssize(added); ++k) {
    for (index_t r = 0; r < std::ssize(norm); ++r) {
      const double x = value(k, r);
      norm[at(r)] -= added[at(k)] * (x * x);
    }
  }
}

}  // namespace

TileRounding::TileRounding(const PreparedLayer& layer, const LayerOptions& options,
                           const Rounder& rounder, TileGrids grids,
                           const std::vector<index_t>& rows, Matrix<float> coordinates,
                           MatrixView<const float> weights)
    : layer_(layer),
      options_(options),
      rounder_(rounder),
      sweep_(rounder.sweep()),
      grids_(std::move(grids)),
      coordinates_(std::move(coordinates)),
      weights_(weights),
      tile_(grids_.rounding_tile(coordinates_.cview(), top_level(options.bits), std::ssize(rows))),
      measures_loss_(clamped_before() || !sweep_.knows_loss),
      loss_(at(coordinates_.cols()), 0.0),
      reference_(at(weights.cols), 0.0) {
  const index_t n = coordinates_.rows();
  const index_t lanes = coordinates_.cols();
  if (options.rounding == Rounding::stochastic) {
    dither_ = Matrix<float>(n, lanes);
    fill_dither(layer, rows, dither_.view());
    tile_.offset = dither_.cview();
  }
  if (clamped_before()) clamp_coordinates();
  if (measures_loss_ && measured_underway(sweep_)) difference_ = Matrix<float>(n, lanes);
  rounder.start(tile_);
}

void TileRounding::clamp_coordinates() {
  clamped_ = Matrix<float>(coordinates_.rows(), coordinates_.cols());
  for (index_t k = 0; k < clamped_.rows(); ++k) {
    for (index_t r = 0; r < clamped_.cols(); ++r) {
      clamped_(k, r) = std::clamp(coordinates_(k, r), 0.0F, tile_.top * tile_.step(k, r));
    }
  }
  tile_.x = clamped_.cview();
}

void TileRounding::round_block(index_t b, MatrixView<const float> panel) {
  rounder_.round_block(layer_.*sweep_.matrix, b, panel, tile_);
  if (measured_underway(sweep_)) measure_block(b, panel);
}

void TileRounding::improve() {
  passes_ = rounder_.improve(layer_, tile_);
  // Until now the coordinates of dynamic groups were the weights.
  if (grids_.dynamic()) grids_.to_coordinates(coordinates_.cview(), coordinates_.view());
}

void TileRounding::measure_block(index_t b, MatrixView<const float> panel) {
  const LowerPanels& factor = layer_.factor;
  float* const scratch = tile_.target.data();
  if (measures_loss_) {
    const Matrix<float>& off = difference_.empty() ? tile_.work : difference_;
    const index_t first = factor.first_column(b);
    for (index_t k = first; k < first + factor.width(b); ++k) {
      for (index_t r = 0; r < off.cols(); ++r) off(k, r) = difference(k, r);
    }
    add_block_norm(factor, b, panel, off.cview(), scratch, loss_);
  }
  if (!reference_.empty()) add_block_norm(factor, b, panel, weights_, scratch, reference_);
}

void TileRounding::finish() {
  const index_t n = coordinates_.rows();
  double flops = rounding_flops(n, options_, passes_);
  if (!reference_.empty()) flops += reference_flops(n);
  UsageMeter::current().add_flops(static_cast<double>(tile_.rows) * flops);
  if (!measures_loss_) loss_ = tile_.loss;
  subtract_damping(
      layer_.added, [this](index_t k, index_t r) { return difference(k, r); }, loss_);
  subtract_damping(
      layer_.added, [this](index_t k, index_t r) { return weights_(k, r); }, reference_);
  for (index_t r = 0; r < coordinates_.cols(); ++r) {
    const double unit = grids_.unit(r);
    loss_[at(r)] *= unit * unit;
  }
}

void round_tiles(const PreparedLayer& layer, const Rounder& rounder, index_t count,
                 const std::function<std::unique_ptr<TileRounding>(index_t)>& make,
                 const std::function<void(index_t, const TileRounding&)>& done) {
  const Sweep sweep = rounder.sweep();
  const auto side_by_side = [&](Range range) {
    std::vector<std::unique_ptr<TileRounding>> tiles(at(range.count()));
    const auto each = [&](const auto& step) {
#pragma omp parallel for schedule(dynamic)
      for (index_t i = 0; i < range.count(); ++i) step(i);
    };
    each([&](index_t i) { tiles[at(i)] = make(range.first + i); });
    if (sweep.matrix != nullptr) {
      (layer.*sweep.matrix).for_each_panel(sweep.forward, [&](index_t b, const auto& panel) {
        each([&](index_t i) { tiles[at(i)]->round_block(b, panel); });
      });
    }
    each([&](index_t i) { tiles[at(i)]->improve(); });
    if (!measured_underway(sweep)) {
      layer.factor.for_each_panel(false, [&](index_t b, const auto& panel) {
        each([&](index_t i) { tiles[at(i)]->measure_block(b, panel); });
      });
    }
    each([&](index_t i) {
      tiles[at(i)]->finish();
      done(range.first + i, *tiles[at(i)]);
    });
  };
  if (!layer.factor.resident()) return side_by_side({0, count});
#pragma omp parallel for schedule(dynamic)
  for (index_t t = 0; t < count; ++t) side_by_side({t, t + 1});
}

}  // namespace quip
