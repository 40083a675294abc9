#include "quip/quant/layer.hpp"

#include <algorithm>
#include <memory>
#include <numeric>
#include <utility>

#include "quant/round/tile_rounding.hpp"

#include "quip/quant/code/grid.hpp"

namespace quip {
namespace {

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

TileGrids choose_grids(MatrixView<const float> tile, const PreparedLayer& layer,
                       const LayerOptions& options, float scale) {
  if (options.grid() == GridKind::incoherent) {
    return TileGrids(std::vector<RowGrid>(at(tile.cols), incoherent_grid(scale, options.bits)));
  }
  return TileGrids(tile, layer.order, options);
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

/// Tile t, whose grids are fitted to it or have the half width `scale`.
std::unique_ptr<TileRounding> make_tile(const RowTiles& tiles, index_t t,
                                        const PreparedLayer& layer, const LayerOptions& options,
                                        const Rounder& rounder, float scale) {
  const MatrixView<const float> weights = tiles.tile(t);
  TileGrids grids = choose_grids(weights, layer, options, scale);
  Matrix<float> coordinates(weights.rows, weights.cols);
  grids.to_coordinates(weights, coordinates.view());
  const Range range = tiles.rows_of(t);
  std::vector<index_t> rows(at(range.count()));
  std::iota(rows.begin(), rows.end(), range.first);
  return std::make_unique<TileRounding>(layer, options, rounder, std::move(grids), rows,
                                        std::move(coordinates), weights);
}

}  // namespace

float incoherent_scale(const PreparedLayer& layer, double rho) {
  // The authors' 1e-16 keeps an all-zero layer finite.
  return static_cast<float>(rho * layer.weight_rms + 1e-16);
}

RoundedRows::RoundedRows(Range range, index_t n, const LayerOptions& options) : rows(range) {
  const bool minmax = options.grid() == GridKind::minmax;
  const index_t grids = range.count() * groups_of(n, options.group_size);
  codes.resize(at(range.count() * ((n * options.bits + 7) / 8)));
  scale.resize(minmax ? at(grids) : 0);
  zero.resize(minmax && !options.symmetric ? at(grids) : 0);
  losses.resize(at(range.count()));
}

RoundedRows round_rows(const RowTiles& tiles, const PreparedLayer& layer,
                       const LayerOptions& options, double rho) {
  const float scale = incoherent_scale(layer, rho);
  const index_t row_bytes = (tiles.n() * options.bits + 7) / 8;
  RoundedRows out(tiles.rows(), tiles.n(), options);
  std::vector<int> passes(at(tiles.count()));
  const auto rounder = make_rounder(options);
  const auto make = [&](index_t t) { return make_tile(tiles, t, layer, options, *rounder, scale); };
  const auto done = [&](index_t t, const TileRounding& tile) {
    const index_t first = tiles.rows_of(t).first - out.rows.first;
    const index_t count = tiles.rows_of(t).count();
    out.store(tile.grids(), first, count);
    pack_tile(tile.levels(), layer.order, count, options.bits, out.codes.data() + first * row_bytes,
              row_bytes);
    for (index_t r = 0; r < count; ++r) {
      out.losses[at(first + r)] = {tile.loss()[at(r)], tile.reference()[at(r)]};
    }
    passes[at(t)] = tile.passes();
  };
  round_tiles(layer, *rounder, tiles.count(), make, done);
  for (const int used : passes) out.passes = std::max(out.passes, used);
  return out;
}

}  // namespace quip
