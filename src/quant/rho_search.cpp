// The search for ρ: a ladder of candidates on a sample of rows, then a parabola.
#include <algorithm>
#include <cmath>
#include <memory>

#include "quant/round/tile_rounding.hpp"

#include "quip/quant/code/grid.hpp"
#include "quip/quant/layer.hpp"

namespace quip {
namespace {

constexpr index_t fewest_samples = 32;
constexpr index_t most_samples = 128;
constexpr int most_rounds = 4;
constexpr double ladder_step = 1.18;

/// Where the search starts: near the optimum for Gaussian weights.
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

/// Tiles in which every (row, candidate) pair is a lane of its own: few rows still fill the
/// vectors.
class CandidateLanes {
 public:
  CandidateLanes(const RhoSearch& search, const RowTiles& tiles, const PreparedLayer& layer,
                 const LayerOptions& options)
      : search_(search),
        tiles_(tiles),
        layer_(layer),
        options_(options),
        mine_(positions_in(search, tiles.rows())),
        lanes_(tiles.n(), {0, std::ssize(mine_) * choices()}) {}

  [[nodiscard]] index_t count() const { return lanes_.count(); }

  /// Tile t, to be rounded; refers to this object.
  [[nodiscard]] std::unique_ptr<TileRounding> tile(index_t t) const {
    const MatrixView<float> coordinates = lanes_.tile(t);
    const Range range = lanes_.rows_of(t);
    std::vector<RowGrid> grids(at(coordinates.cols));
    std::vector<index_t> rows;
    for (index_t pair = range.first; pair < range.last; ++pair) {
      const double rho = search_.candidates()[at(pair % choices())];
      const RowGrid grid = incoherent_grid(incoherent_scale(layer_, rho), options_.bits);
      grids[at(pair - range.first)] = grid;
      rows.push_back(search_.sample()[position(pair)]);
      fill_lane(rows.back(), grid, coordinates, pair - range.first);
    }
    return std::make_unique<TileRounding>(layer_, options_, TileGrids(std::move(grids)), rows,
                                          coordinates);
  }

  /// The losses of tile t, once it is finished, to their places among all.
  void collect(index_t t, const TileRounding& tile, std::vector<double>& losses) const {
    const Range range = lanes_.rows_of(t);
    for (index_t pair = range.first; pair < range.last; ++pair) {
      losses[position(pair) * at(choices()) + at(pair % choices())] =
          tile.loss()[at(pair - range.first)];
    }
  }

 private:
  /// Which rows of the sample lie in `rows`.
  static std::vector<index_t> positions_in(const RhoSearch& search, Range rows) {
    std::vector<index_t> positions;
    for (std::size_t i = 0; i < search.sample().size(); ++i) {
      const index_t row = search.sample()[i];
      if (row >= rows.first && row < rows.last) positions.push_back(static_cast<index_t>(i));
    }
    return positions;
  }

  [[nodiscard]] index_t choices() const { return std::ssize(search_.candidates()); }
  /// In the sample.
  [[nodiscard]] std::size_t position(index_t pair) const { return at(mine_[at(pair / choices())]); }

  void fill_lane(index_t row, const RowGrid& grid, MatrixView<float> coordinates,
                 index_t lane) const {
    index_t source = 0;
    while (row >= tiles_.rows_of(source).last) ++source;
    const MatrixView<float> from = tiles_.tile(source);
    const index_t column = row - tiles_.rows_of(source).first;
    for (index_t k = 0; k < from.rows; ++k) {
      coordinates(k, lane) = from(k, column) * grid.inverse + grid.offset;
    }
  }

  const RhoSearch& search_;
  const RowTiles& tiles_;
  const PreparedLayer& layer_;
  const LayerOptions& options_;
  std::vector<index_t> mine_;  ///< positions in the sample
  RowTiles lanes_;
};

}  // namespace

RhoSearch::RhoSearch(index_t rows, int bits) {
  const index_t count = std::min(rows, std::clamp(rows / 8, fewest_samples, most_samples));
  for (index_t i = 0; i < count; ++i) sample_.push_back(i * rows / count);
  for (int i = -2; i <= 2; ++i) candidates_.push_back(typical_rho(bits) * std::pow(ladder_step, i));
}

std::vector<double> RhoSearch::evaluate(const RowTiles& tiles, const PreparedLayer& layer,
                                        const LayerOptions& options) const {
  std::vector<double> losses(sample_.size() * candidates_.size(), 0.0);
  const CandidateLanes lanes(*this, tiles, layer, options);
  const auto rounder = make_rounder(options);
#pragma omp parallel for schedule(dynamic)
  for (index_t t = 0; t < lanes.count(); ++t) {
    const auto tile = lanes.tile(t);
    tile->round(*rounder);
    tile->finish();
    lanes.collect(t, *tile, losses);
  }
  return losses;
}

void RhoSearch::advance(std::span<const double> losses) {
  for (std::size_t c = 0; c < candidates_.size(); ++c) {
    double sum = 0;
    for (std::size_t i = 0; i < sample_.size(); ++i) sum += losses[i * candidates_.size() + c];
    known_.push_back({candidates_[c], sum});
  }
  std::sort(known_.begin(), known_.end(),
            [](const Point& a, const Point& b) { return a.rho < b.rho; });
  candidates_.clear();
  ++rounds_;
  const auto best = static_cast<std::size_t>(
      std::min_element(known_.begin(), known_.end(),
                       [](const Point& a, const Point& b) { return a.loss < b.loss; }) -
      known_.begin());
  // At an end of the ladder the minimum may lie beyond it.
  if (rounds_ < most_rounds && best == 0) {
    for (int i = 1; i <= 3; ++i)
      candidates_.push_back(known_.front().rho / std::pow(ladder_step, i));
  } else if (rounds_ < most_rounds && best + 1 == known_.size()) {
    for (int i = 1; i <= 3; ++i)
      candidates_.push_back(known_.back().rho * std::pow(ladder_step, i));
  } else {
    conclude(best);
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

// --- with a factor that comes panel by panel ---

struct StreamedSearch::State {
  CandidateLanes lanes;
  std::vector<std::unique_ptr<TileRounding>> tiles;
  std::vector<double> losses;
};

StreamedSearch::StreamedSearch(const RhoSearch& search, const RowTiles& tiles,
                               const PreparedLayer& layer, const LayerOptions& options)
    : state_(new State{{search, tiles, layer, options}, {}, {}}) {
  state_->losses.resize(search.sample().size() * search.candidates().size(), 0.0);
  state_->tiles.resize(at(state_->lanes.count()));
#pragma omp parallel for schedule(dynamic)
  for (index_t t = 0; t < state_->lanes.count(); ++t) {
    auto& tile = state_->tiles[at(t)];
    tile = state_->lanes.tile(t);
    tile->prepare_blocks();
  }
}

StreamedSearch::~StreamedSearch() = default;

void StreamedSearch::take(index_t b, MatrixView<const float> panel) {
#pragma omp parallel for schedule(dynamic)
  for (const auto& tile : state_->tiles) tile->round_block(b, panel);
}

std::vector<double> StreamedSearch::finish() {
  for (index_t t = 0; t < state_->lanes.count(); ++t) {
    const auto& tile = state_->tiles[at(t)];
    tile->finish();
    state_->lanes.collect(t, *tile, state_->losses);
  }
  return std::move(state_->losses);
}

}  // namespace quip
