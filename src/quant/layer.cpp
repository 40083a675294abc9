#include "quip/quant/layer.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "quant/round/tile_rounding.hpp"

#include "quip/core/dtype.hpp"
#include "quip/quant/code/grid.hpp"
#include "quip/quant/transform/hadamard.hpp"
#include "quip/quant/trellis/tile.hpp"

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

/// Packs the states of a tile, 16 rows after 16 rows.
void pack_states(const TileRounding& tile, Range rows, QuantizedLinear& stored) {
  const index_t words = trellis::packed_words(stored.bits);
  const index_t across = stored.cols / trellis::tile_side;
  const index_t lanes = tile.levels().cols / trellis::tile_side;
  std::vector<std::uint16_t> packed(at(words));
  for (index_t i = 0; i < rows.count() / trellis::tile_side; ++i) {
    for (index_t j = 0; j < across; ++j) {
      trellis::pack_states(tile.states().row(j * lanes + i), stored.bits, packed.data());
      const index_t place = (rows.first / trellis::tile_side + i) * across + j;
      std::memcpy(stored.codes.data() + place * words * 2, packed.data(), at(words * 2));
    }
  }
}

/// Writes sign and scale of every element as halves.
void store_scales(const std::vector<float>& scale, bool inverse, const std::vector<double>& signs,
                  index_t first, std::vector<std::uint16_t>& out) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::size_t at_scale = i + at(first);
    const float size = inverse ? 1.0F / scale[at_scale] : scale[at_scale];
    out[i] = to_f16(static_cast<float>(signs[at_scale]) * size);
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
  out.layer.rows = rows.count();  // a part: only the whole layer is padded
  out.layer.row_padding = 0;
  out.losses.resize(at(rows.count()));
  visit_parts([](const Part& part, auto& elements) { elements.resize(at(part.count())); },
              out.layer);
  if (options.has_trellis()) {
    const auto signs = [&](index_t n, std::uint64_t key) {
      return hadamard_signs(options.effective_transform(), n, key);
    };
    store_scales(layer.rescale, true, signs(cols, layer.seed_v), 0, out.layer.suh);
    store_scales(layer.output_scale, false, signs(std::ssize(layer.output_scale), layer.seed_u),
                 rows.first, out.layer.svh);
  } else if (out.layer.grid == GridKind::incoherent) {
    out.layer.scale = {incoherent_scale(layer, rho)};
  }
  if (out.layer.output_scaled) {
    for (index_t i = 0; i < rows.count(); ++i) {
      out.layer.output_scale[at(i)] = to_f16(layer.output_scale[at(rows.first + i)]);
    }
  }
  if (out.layer.rescaled) out.layer.rescale = layer.rescale;
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
      if (out.layer.half_scales) {
        out.layer.half_scale[i] = to_f16(grid.step);
      } else {
        out.layer.scale[i] = grid.step;
      }
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
    if (options.has_trellis()) {
      pack_states(tile, {first, first + count}, stored);  // losses: measure.hpp
    } else {
      pack_tile(tile.levels(), layer.order, count, stored.bits,
                stored.codes.data() + first * stored.row_bytes(), stored.row_bytes());
      store_grids_and_losses(tile, first, count, out);
    }
    passes[at(t)] = tile.passes();
  };
  round_tiles(layer, *rounder, tiles.count(), make, done);
  for (const int used : passes) out.passes = std::max(out.passes, used);
  return out;
}

}  // namespace quip
