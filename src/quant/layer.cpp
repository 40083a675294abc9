#include "quip/quant/layer.hpp"

#include <algorithm>
#include <utility>

#include "quant/round/tile_rounding.hpp"

#include "quip/quant/code/grid.hpp"

namespace quip {
namespace {

/// Packs the codes of a tile, in the columns' own order.
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

RoundedRows room_for(Range rows, index_t cols, const PreparedLayer& layer,
                     const LayerOptions& options, double rho) {
  RoundedRows out{rows, described(options, rows.count(), cols), {}, 0};
  out.losses.resize(at(rows.count()));
  visit_parts([](const Part& part, auto& elements) { elements.resize(at(part.count())); },
              out.layer);
  if (out.layer.grid == GridKind::incoherent) out.layer.scale = {incoherent_scale(layer, rho)};
  out.layer.rescale = layer.rescale;
  if (out.layer.transform != TransformKind::none) {
    out.layer.seed_u = layer.seed_u;
    out.layer.seed_v = layer.seed_v;
  }
  return out;
}

void store_grids_and_losses(const TileRounding& tile, index_t first, index_t count,
                            RoundedRows& out) {
  for (index_t r = 0; r < count; ++r) {
    out.losses[at(first + r)] = {tile.loss()[at(r)], tile.reference()[at(r)]};
    if (out.layer.grid != GridKind::minmax) continue;
    for (index_t g = 0; g < out.layer.groups(); ++g) {
      const RowGrid& grid = tile.grids().grid(r, g);
      const std::size_t i = at((first + r) * out.layer.groups() + g);
      out.layer.scale[i] = grid.step;
      if (!out.layer.symmetric) out.layer.zero[i] = static_cast<std::uint8_t>(grid.offset);
    }
  }
}

RoundedRows round_rows(const RowTiles& tiles, const PreparedLayer& layer,
                       const LayerOptions& options, double rho) {
  const float scale = incoherent_scale(layer, rho);
  RoundedRows out = room_for(tiles.rows(), tiles.n(), layer, options, rho);
  QuantizedLinear& stored = out.layer;
  std::vector<int> passes(at(tiles.count()));
  const auto rounder = make_rounder(options);
  const ColumnPlaces places(host_rounding_math(), tiles.n(), layer.order, options.group_size);
  const auto make = [&](index_t t) {
    return tile_of_rows(places, layer, options, *rounder, tiles.rows_of(t), tiles.tile(t), scale);
  };
  const auto done = [&](index_t t, const TileRounding& tile) {
    const index_t first = tiles.rows_of(t).first - out.rows.first;
    const index_t count = tiles.rows_of(t).count();
    pack_tile(tile.levels(), layer.order, count, stored.bits,
              stored.codes.data() + first * stored.row_bytes(), stored.row_bytes());
    store_grids_and_losses(tile, first, count, out);
    passes[at(t)] = tile.passes();
  };
  round_tiles(layer, *rounder, tiles.count(), make, done);
  for (const int used : passes) out.passes = std::max(out.passes, used);
  return out;
}

}  // namespace quip
