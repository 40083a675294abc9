#include "tile_rounding.hpp"

#include <numeric>

#include "dither.hpp"

#include "quip/core/usage.hpp"
#include "quip/quant/factor/work.hpp"

namespace quip {
namespace {

/// True if the panels that the rounder takes are those that losses are measured with, so that they
/// need to come but once.
bool measured_underway(const Sweep& sweep) {
  return sweep.matrix == &PreparedLayer::factor && sweep.knows_loss;
}

}  // namespace

TileRounding::TileRounding(const PreparedLayer& layer, const LayerOptions& options,
                           const Rounder& rounder, TileGrids grids,
                           const std::vector<index_t>& rows, Lanes<float> coordinates,
                           MatrixView<const float> weights)
    : layer_(layer),
      options_(options),
      rounder_(rounder),
      sweep_(rounder.sweep()),
      grids_(std::move(grids)),
      math_(grids_.math()),
      coordinates_(std::move(coordinates)),
      weights_(weights),
      tile_(unit_tile(coordinates_, top_level(options.bits), std::ssize(rows), math_)),
      measures_loss_(clamped_before() || !sweep_.knows_loss),
      loss_(math_.zeros<double>(1, coordinates_.cols, "losses of rows")),
      reference_(math_.zeros<double>(1, weights.cols, "norms of rows")) {
  const index_t n = coordinates_.rows;
  const index_t lanes = coordinates_.cols;
  tile_.grid = grids_.view();
  if (grids_.dynamic()) {
    tile_.group_size = options.group_size;
    tile_.fit_group = [this](index_t first, MatrixView<float> group) {
      grids_.fit_group(first, group);
    };
  }
  if (options.rounding == Rounding::stochastic) {
    const Matrix<float> dither(n, lanes);
    fill_dither(layer, rows, dither.view());
    dither_ = math_.placed<float>(dither.span(), "offsets of rounding");
    tile_.offset = dither_.data;
  }
  if (clamped_before()) {
    clamped_ = math_.lanes<float>(n, lanes, "clamped rows");
    math_.copy(coordinates_, clamped_);
    math_.clamp_coordinates(tile_.grid, tile_.top, clamped_);
    tile_.x = clamped_;
  }
  if (measures_loss_ && measured_underway(sweep_)) {
    difference_ = math_.lanes<float>(n, lanes, "differences of rows");
  }
  rounder.start(tile_);
}

void TileRounding::take_difference(index_t first, index_t count,
                                   MatrixView<float> difference) const {
  math_.level_difference(levels().middle_rows(first, count), tile_.grid.from(first),
                         coordinates_.middle_rows(first, count),
                         difference.middle_rows(first, count));
}

void TileRounding::round_block(index_t b, MatrixView<const float> panel) {
  rounder_.round_block(layer_.*sweep_.matrix, b, panel, tile_);
  if (measured_underway(sweep_)) measure_block(b, panel);
}

void TileRounding::improve() {
  passes_ = rounder_.improve(layer_, tile_);
  // Until now the coordinates of dynamic groups were the weights.
  if (grids_.dynamic()) grids_.to_coordinates(coordinates_, coordinates_);
}

void TileRounding::measure_block(index_t b, MatrixView<const float> panel) {
  const LowerPanels& factor = layer_.factor;
  float* const scratch = tile_.target.data;
  if (measures_loss_) {
    const Lanes<float>& off = difference_.data == nullptr ? tile_.work : difference_;
    take_difference(factor.first_column(b), panel.cols, off);
    add_block_norm(math_, factor, b, panel, off, scratch, loss_.data);
  }
  if (weights_.size() > 0) {
    add_block_norm(math_, factor, b, panel, weights_, scratch, reference_.data);
  }
}

void TileRounding::finish() {
  const index_t n = coordinates_.rows;
  double flops = rounding_flops(n, options_, passes_);
  if (weights_.size() > 0) flops += reference_flops(n);
  UsageMeter::current().add_flops(static_cast<double>(tile_.rows) * flops);
  // Takes off what damping has added to H.
  const auto added = math_.placed<double>(layer_.added, "what damping added");
  const Lanes<double>& loss = measures_loss_ ? loss_ : tile_.loss;
  take_difference(0, n, tile_.work);
  math_.add_weighted_squares(tile_.work, added.data, -1.0, loss.data);
  math_.add_weighted_squares(weights_, added.data, -1.0, reference_.data);
  losses_ = math_.fetched(loss);
  references_ = math_.fetched(reference_);
  for (index_t r = 0; r < coordinates_.cols; ++r) {
    const double unit = grids_.unit(r);
    losses_[at(r)] *= unit * unit;
  }
}

std::unique_ptr<TileRounding> tile_of_rows(const ColumnPlaces& places, const PreparedLayer& layer,
                                           const LayerOptions& options, const Rounder& rounder,
                                           Range rows, MatrixView<const float> weights,
                                           float scale) {
  const auto given = [&](const RowGrid& grid) {
    return TileGrids(places, std::vector(at(weights.cols), grid));
  };
  // Weights for a trellis are in its values' terms.
  const bool trellis = options.has_trellis();
  TileGrids grids = trellis ? given(RowGrid{})
                    : options.grid() == GridKind::incoherent
                        ? given(incoherent_grid(scale, options.bits))
                        : TileGrids(places, weights, options);
  auto coordinates = places.math.lanes<float>(weights.rows, weights.cols, "coordinates of rows");
  grids.to_coordinates(weights, coordinates);
  std::vector<index_t> numbers(at(rows.count()));
  std::iota(numbers.begin(), numbers.end(), rows.first);
  return std::make_unique<TileRounding>(layer, options, rounder, std::move(grids), numbers,
                                        std::move(coordinates),
                                        trellis ? MatrixView<const float>() : weights);
}

void round_together(const PreparedLayer& layer, const Rounder& rounder,
                    const std::function<void(const std::function<void(TileRounding&)>&)>& each) {
  const Sweep sweep = rounder.sweep();
  if (sweep.matrix != nullptr) {
    (layer.*sweep.matrix).for_each_panel(sweep.forward, [&](index_t b, const auto& panel) {
      each([&](TileRounding& tile) { tile.round_block(b, panel); });
    });
  }
  each([](TileRounding& tile) { tile.improve(); });
  if (!measured_underway(sweep)) {
    layer.factor.for_each_panel(false, [&](index_t b, const auto& panel) {
      each([&](TileRounding& tile) { tile.measure_block(b, panel); });
    });
  }
  each([](TileRounding& tile) { tile.finish(); });
}

void round_tiles(const PreparedLayer& layer, const Rounder& rounder, index_t count,
                 const std::function<std::unique_ptr<TileRounding>(index_t)>& make,
                 const std::function<void(index_t, const TileRounding&)>& done) {
  const auto side_by_side = [&](Range range) {
    std::vector<std::unique_ptr<TileRounding>> tiles(at(range.count()));
    const auto parallel = [&](const auto& work) {
#pragma omp parallel for schedule(dynamic)
      for (index_t i = 0; i < range.count(); ++i) work(i);
    };
    parallel([&](index_t i) { tiles[at(i)] = make(range.first + i); });
    round_together(layer, rounder, [&](const std::function<void(TileRounding&)>& step) {
      parallel([&](index_t i) { step(*tiles[at(i)]); });
    });
    parallel([&](index_t i) { done(range.first + i, *tiles[at(i)]); });
  };
  if (!layer.factor.resident()) return side_by_side({0, count});
#pragma omp parallel for schedule(dynamic)
  for (index_t t = 0; t < count; ++t) side_by_side({t, t + 1});
}

}  // namespace quip
