// The search for ρ: a ladder of candidates on a sample of rows, then a parabola.
#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "quant/round/tile_rounding.hpp"

#include "quip/quant/code/grid.hpp"
#include "quip/quant/layer.hpp"

namespace quip {
namespace {

constexpr index_t fewest_samples = 32;
constexpr index_t most_samples = 128;
constexpr int most_rounds = 4;
constexpr double ladder_step = 1.18;

/// Returns the middle of the first ladder: near the optimum for Gaussian weights.
double typical_rho(int bits) {
  switch (bits) {
    case 2:
      return 1.6;
    case 3:
      return 2.1;
    case 4:
      return 2.6;
    default:
      return 4.2;
  }
}

/// Fills a lane with a row of W' in its grid's coordinates.
void fill_lane(const RowTiles& tiles, index_t row, const RowGrid& grid, MatrixView<float> tile,
               index_t lane) {
  index_t source = 0;
  while (row >= tiles.rows_of(source).last) ++source;
  const MatrixView<float> from = tiles.tile(source);
  const index_t column = row - tiles.rows_of(source).first;
  for (index_t k = 0; k < from.rows; ++k) {
    tile(k, lane) = from(k, column) * grid.inverse + grid.offset;
  }
}

}  // namespace

RhoSearch::RhoSearch(index_t rows, int bits) {
  const index_t count = std::min(rows, std::clamp(rows / 8, fewest_samples, most_samples));
  for (index_t i = 0; i < count; ++i) sample_.push_back(i * rows / count);
  for (int i = -2; i <= 2; ++i) candidates_.push_back(typical_rho(bits) * std::pow(ladder_step, i));
}

std::vector<RhoSearch::Trial> RhoSearch::trials(Range rows) const {
  std::vector<Trial> trials;
  for (std::size_t i = 0; i < sample_.size(); ++i) {
    if (sample_[i] < rows.first || sample_[i] >= rows.last) continue;
    for (std::size_t c = 0; c < candidates_.size(); ++c) {
      trials.push_back({sample_[i], candidates_[c], i * candidates_.size() + c});
    }
  }
  return trials;
}

// Every trial is a lane of its own: few rows still fill the vectors.
std::vector<double> RhoSearch::evaluate(const RowTiles& tiles, const PreparedLayer& layer,
                                        const LayerOptions& options) const {
  std::vector<double> losses(sample_.size() * candidates_.size(), 0.0);
  const std::vector<Trial> all = trials(tiles.rows());
  const RowTiles lanes(0, {0, std::ssize(all)});  // how they are cut into tiles
  const auto rounder = make_rounder(options);
  const RoundingMath& math = host_rounding_math();
  const ColumnPlaces places(math, tiles.n(), layer.order, options.group_size);
  const auto trials_of = [&](index_t t) {
    const Range range = lanes.rows_of(t);
    return std::span(all).subspan(at(range.first), at(range.count()));
  };
  const auto make = [&](index_t t) {
    auto coordinates = math.zeros<float>(tiles.n(), lanes.tile(t).cols, "a sample of rows");
    std::vector<RowGrid> grids(at(coordinates.cols));
    std::vector<index_t> rows;
    for (const Trial& trial : trials_of(t)) {
      const std::size_t lane = rows.size();
      grids[lane] = incoherent_grid(incoherent_scale(layer, trial.rho), options.bits);
      fill_lane(tiles, trial.row, grids[lane], coordinates, std::ssize(rows));
      rows.push_back(trial.row);
    }
    return std::make_unique<TileRounding>(layer, options, *rounder,
                                          TileGrids(places, std::move(grids)), rows,
                                          std::move(coordinates));
  };
  const auto done = [&](index_t t, const TileRounding& tile) {
    auto loss = tile.loss().begin();
    for (const Trial& trial : trials_of(t)) losses[trial.place] = *loss++;
  };
  round_tiles(layer, *rounder, lanes.count(), make, done);
  return losses;
}

void RhoSearch::advance(std::span<const double> losses) {
  for (std::size_t c = 0; c < candidates_.size(); ++c) {
    double sum = 0;
    for (std::size_t i = 0; i < sample_.size(); ++i) sum += losses[i * candidates_.size() + c];
    known_.push_back({candidates_[c], sum});
  }
  std::ranges::sort(known_, {}, &Point::rho);
  candidates_.clear();
  ++rounds_;
  const std::size_t best = at(std::ranges::min_element(known_, {}, &Point::loss) - known_.begin());
  // At an end of the ladder the minimum may lie beyond it.
  const bool lowest = best == 0;
  if (rounds_ == most_rounds || (!lowest && best + 1 < known_.size())) return conclude(best);
  for (int i = 1; i <= 3; ++i) {
    const double factor = std::pow(ladder_step, i);
    candidates_.push_back(lowest ? known_[best].rho / factor : known_[best].rho * factor);
  }
}

void RhoSearch::conclude(std::size_t best) {
  result_ = known_[best].rho;
  if (best == 0 || best + 1 == known_.size()) return;
  // The ladder is even in log ρ: the vertex of the parabola through three points.
  const double left = known_[best - 1].loss;
  const double middle = known_[best].loss;
  const double right = known_[best + 1].loss;
  const double curvature = left - 2 * middle + right;
  if (curvature <= 0) return;
  const double shift = std::clamp(0.5 * (left - right) / curvature, -0.5, 0.5);
  result_ *= std::pow(ladder_step, shift);
}

}  // namespace quip
