#include "quip/quant/layer.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "dither.hpp"
#include "tile_grids.hpp"

#include "quip/core/usage.hpp"
#include "quip/quant/grid.hpp"
#include "quip/quant/work.hpp"

namespace quip {
namespace {

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

/// Σⱼ addedⱼ xⱼ² per row: what damping contributed to x H xᵀ.
void subtract_damping(const std::vector<double>& added, MatrixView<const float> x,
                      std::span<double> norm) {
  for (index_t k = 0; k < x.rows; ++k) {
    const double weight = added[at(k)];
    const float* row = x.row(k);
    for (index_t r = 0; r < x.cols; ++r) {
      const double value = row[r];
      norm[at(r)] -= weight * (value * value);
    }
  }
}

/// Rounds a tile already in the coordinates of `grids`; lane r is row rows[r] of the layer. `loss`
/// receives undamped losses in weight units. Returns the greedy passes that were needed.
int round_tile(const Rounder& rounder, const PreparedLayer& layer, const LayerOptions& options,
               TileGrids& grids, std::span<const index_t> rows, MatrixView<float> coordinates,
               MatrixView<float> q, std::span<double> loss) {
  const float top = top_level(options.bits);
  const index_t n = coordinates.rows;
  const index_t lanes = coordinates.cols;
  Matrix<float> difference(n, lanes);
  RoundingTile tile = grids.rounding_tile(coordinates, top, static_cast<index_t>(rows.size()));
  Matrix<float> dither;
  if (options.rounding == Rounding::stochastic) {
    dither = Matrix<float>(n, lanes);
    fill_dither(layer, rows, dither.view());
    tile.offset = dither.cview();
  }
  Matrix<float> clamped;
  if (options.clamp == Clamp::pre) {
    clamped = Matrix<float>(n, lanes);
    for (index_t k = 0; k < n; ++k) {
      for (index_t r = 0; r < lanes; ++r) {
        clamped(k, r) = std::clamp(coordinates(k, r), 0.0F, top * tile.step(k, r));
      }
    }
    tile.x = clamped.cview();
  }
  const int passes = rounder.round(layer, tile, q, loss);
  UsageMeter::current().add_flops(static_cast<double>(rows.size()) *
                                  rounding_flops(n, options, passes));
  // Until now the coordinates of dynamic groups were the weights.
  if (grids.dynamic()) grids.to_coordinates(coordinates, coordinates);
  for (index_t k = 0; k < n; ++k) {
    for (index_t r = 0; r < lanes; ++r) {
      difference(k, r) = q(k, r) * tile.step(k, r) - coordinates(k, r);
    }
  }
  if (options.clamp == Clamp::pre) {  // the rounder saw other weights than ours
    std::fill(loss.begin(), loss.end(), 0.0);
    add_hessian_norm(layer.factor, difference.view(), loss);
  }
  subtract_damping(layer.added, difference.view(), loss);
  for (index_t r = 0; r < lanes; ++r) {
    const double unit = grids.unit(r);
    loss[at(r)] *= unit * unit;
  }
  return passes;
}

TileGrids choose_grids(MatrixView<const float> tile, const PreparedLayer& layer,
                       const LayerOptions& options, float scale) {
  if (options.grid() == GridKind::incoherent) {
    return TileGrids(std::vector<RowGrid>(at(tile.cols), incoherent_grid(scale, options.bits)));
  }
  return TileGrids(tile, layer.order, options);
}

/// Writes down the fitted grids of a tile of `rows` rows, the first of which is `first_row` of
/// `out`.
void store_grids(const TileGrids& grids, index_t rows, index_t first_row, RoundedRows& out) {
  for (index_t r = 0; r < rows; ++r) {
    for (index_t g = 0; g < grids.groups(); ++g) {
      const auto [step, zero] = grids.parameters(r, g);
      const std::size_t i = at((first_row + r) * grids.groups() + g);
      out.scale[i] = step;
      if (!out.zero.empty()) out.zero[i] = zero;
    }
  }
}

/// Codes in the columns' own order.
void pack_tile(MatrixView<const float> q, const std::vector<index_t>& order, index_t rows, int bits,
               std::uint8_t* packed, index_t row_bytes) {
  std::vector<std::uint8_t> codes(at(q.rows));
  for (index_t r = 0; r < rows; ++r) {
    for (index_t k = 0; k < q.rows; ++k) {
      codes[at(order.empty() ? k : order[at(k)])] = static_cast<std::uint8_t>(q(k, r));
    }
    pack_row(codes.data(), q.rows, bits, packed + r * row_bytes);
  }
}

}  // namespace

float incoherent_scale(const PreparedLayer& layer, double rho) {
  // The authors' 1e-16 keeps an all-zero layer finite.
  return static_cast<float>(rho * layer.weight_rms + 1e-16);
}

RoundedRows round_rows(const RowTiles& tiles, const PreparedLayer& layer,
                       const LayerOptions& options, double rho) {
  const index_t n = tiles.n();
  const index_t rows = tiles.rows().count();
  const index_t row_bytes = (n * options.bits + 7) / 8;
  const bool minmax = options.grid() == GridKind::minmax;
  const float scale = minmax ? 0.0F : incoherent_scale(layer, rho);
  RoundedRows out;
  out.rows = tiles.rows();
  out.codes.resize(at(rows * row_bytes));
  const index_t grid_count = rows * groups_of(n, options.group_size);
  out.scale.resize(minmax ? at(grid_count) : 0);
  out.zero.resize(minmax && !options.symmetric ? at(grid_count) : 0);
  out.losses.resize(at(rows));
  const auto rounder = make_rounder(options);
  int passes = 0;
#pragma omp parallel for schedule(dynamic) reduction(max : passes)
  for (index_t t = 0; t < tiles.count(); ++t) {
    const MatrixView<float> tile = tiles.tile(t);
    const Range range = tiles.rows_of(t);
    const index_t first = range.first - out.rows.first;
    TileGrids grids = choose_grids(tile, layer, options, scale);
    Matrix<float> coordinates(n, tile.cols);
    Matrix<float> q(n, tile.cols);
    std::vector<double> loss(at(tile.cols));
    std::vector<double> reference(at(tile.cols), 0.0);
    add_hessian_norm(layer.factor, tile, reference);
    subtract_damping(layer.added, tile, reference);
    grids.to_coordinates(tile, coordinates.view());
    std::vector<index_t> layer_rows(at(range.count()));
    std::iota(layer_rows.begin(), layer_rows.end(), range.first);
    passes = std::max(passes, round_tile(*rounder, layer, options, grids, layer_rows,
                                         coordinates.view(), q.view(), loss));
    if (minmax) store_grids(grids, range.count(), first, out);
    pack_tile(q.view(), layer.order, range.count(), options.bits,
              out.codes.data() + first * row_bytes, row_bytes);
    for (index_t r = 0; r < range.count(); ++r) {
      out.losses[at(first + r)] = {loss[at(r)], reference[at(r)]};
    }
  }
  out.passes = passes;
  UsageMeter::current().add_flops(static_cast<double>(rows) * reference_flops(n));
  return out;
}

// --- the search for ρ ---

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

}  // namespace

RhoSearch::RhoSearch(index_t rows, int bits) {
  const index_t count = std::min(rows, std::clamp(rows / 8, fewest_samples, most_samples));
  for (index_t i = 0; i < count; ++i) sample_.push_back(i * rows / count);
  for (int i = -2; i <= 2; ++i) candidates_.push_back(typical_rho(bits) * std::pow(ladder_step, i));
}

std::vector<double> RhoSearch::evaluate(const RowTiles& tiles, const PreparedLayer& layer,
                                        const LayerOptions& options) const {
  const index_t n = tiles.n();
  const auto choices = static_cast<index_t>(candidates_.size());
  std::vector<double> losses(sample_.size() * candidates_.size(), 0.0);
  std::vector<index_t> mine;  // positions in the sample
  for (std::size_t i = 0; i < sample_.size(); ++i) {
    if (sample_[i] >= tiles.rows().first && sample_[i] < tiles.rows().last) {
      mine.push_back(static_cast<index_t>(i));
    }
  }
  // Every (row, candidate) pair is a lane of its own: few rows still fill the vectors.
  const index_t pairs = static_cast<index_t>(mine.size()) * choices;
  const RowTiles lanes(n, {0, pairs});
  const auto rounder = make_rounder(options);
#pragma omp parallel for schedule(dynamic)
  for (index_t t = 0; t < lanes.count(); ++t) {
    const MatrixView<float> tile = lanes.tile(t);
    const Range range = lanes.rows_of(t);
    std::vector<RowGrid> grids(at(tile.cols));
    std::vector<index_t> layer_rows;
    for (index_t pair = range.first; pair < range.last; ++pair) {
      const index_t row = sample_[at(mine[at(pair / choices)])];
      const double rho = candidates_[at(pair % choices)];
      const RowGrid grid = incoherent_grid(incoherent_scale(layer, rho), options.bits);
      grids[at(pair - range.first)] = grid;
      layer_rows.push_back(row);
      index_t source = 0;
      while (row >= tiles.rows_of(source).last) ++source;
      const MatrixView<float> from = tiles.tile(source);
      const index_t lane = row - tiles.rows_of(source).first;
      for (index_t k = 0; k < n; ++k) {
        tile(k, pair - range.first) = from(k, lane) * grid.inverse + grid.offset;
      }
    }
    Matrix<float> q(n, tile.cols);
    std::vector<double> loss(at(tile.cols));
    TileGrids lane_grids(std::move(grids));
    round_tile(*rounder, layer, options, lane_grids, layer_rows, tile, q.view(), loss);
    for (index_t pair = range.first; pair < range.last; ++pair) {
      losses[at(mine[at(pair / choices)] * choices + pair % choices)] =
          loss[at(pair - range.first)];
    }
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

}  // namespace quip
