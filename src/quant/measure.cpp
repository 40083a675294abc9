#include "quip/quant/measure.hpp"

#include <algorithm>
#include <cmath>
#include <memory>

#include "tile_norms.hpp"

#include "quip/core/dtype.hpp"
#include "quip/quant/code/dequantize.hpp"

namespace quip {
namespace {

/// Returns rows of Ŵ D̃ Vᵀ, what is coded with the transform of the outputs undone, in the order of
/// rounding.
RowTiles coded_rows(const QuantizedLinear& stored, const Transform& u,
                    const std::vector<index_t>& order, Range rows) {
  constexpr index_t slab_cols = 64;
  RowTiles tiles(stored.cols, rows);
  std::vector<index_t> position(at(stored.cols));
  for (index_t k = 0; k < stored.cols; ++k) {
    position[at(order.empty() ? k : order[at(k)])] = k;
  }
  const std::vector<std::uint16_t>& scales = stored.row_scales();
#pragma omp parallel
  {
    Buffer<float> slab(stored.rows * slab_cols);
    Buffer<float> scratch(stored.rows * slab_cols);
#pragma omp for schedule(dynamic)
    for (index_t first = 0; first < stored.cols; first += slab_cols) {
      const index_t width = std::min(slab_cols, stored.cols - first);
      const MatrixView<float> part(slab.data(), stored.rows, width);
      decode_columns(stored, first, part);
      u.apply_transposed(part, scratch.data());
      for (index_t t = 0; t < tiles.count(); ++t) {
        const MatrixView<float> tile = tiles.tile(t);
        const Range range = tiles.rows_of(t);
        for (index_t i = range.first; i < range.last; ++i) {
          const float scale = std::abs(from_f16(scales[at(i)]));
          for (index_t k = 0; k < width; ++k) {
            tile(position[at(first + k)], i - range.first) = part(i, k) * scale;
          }
        }
      }
    }
  }
  return tiles;
}

}  // namespace

std::vector<RowNorms> measure_rows(const QuantizedLinear& stored, MatrixView<const float> weights,
                                   const PreparedLayer& layer, Range rows) {
  const InputSide side(stored, layer);
  const auto u = make_transform(stored.transform, stored.rows, layer.seed_u, Side::output);
  const RowTiles plain = transform_rows(weights, side.layer, side.transforms, rows);
  const RowTiles coded = coded_rows(stored, *u, layer.order, rows);
  std::vector<std::unique_ptr<TileNorms>> tiles(at(plain.count()));
  const auto parallel = [&](const auto& work) {
#pragma omp parallel for schedule(dynamic)
    for (index_t t = 0; t < plain.count(); ++t) work(t);
  };
  parallel([&](index_t t) {
    tiles[at(t)] = std::make_unique<TileNorms>(host_rounding_math(), coded.tile(t), plain.tile(t));
  });
  layer.factor.for_each_panel(false, [&](index_t b, const auto& panel) {
    parallel([&](index_t t) { tiles[at(t)]->add(layer.factor, b, panel); });
  });
  std::vector<RowNorms> norms(at(rows.count()));
  parallel([&](index_t t) {
    const Range range = plain.rows_of(t);
    const std::vector<RowNorms> lanes = tiles[at(t)]->finish(layer.added);  // and some that pad it
    std::copy_n(lanes.begin(), range.count(), norms.begin() + range.first - rows.first);
  });
  return norms;
}

RowLoss refit(const RowNorms& norms, std::uint16_t& scale) {
  if (norms.coded <= 0) return {norms.difference, norms.plain};
  // ‖c·ŵ − w‖² with c = 1 + d is ‖ŵ − w‖² + 2d⟨ŵ, ŵ − w⟩ + d²‖ŵ‖².
  const double slope = (norms.coded - norms.plain + norms.difference) / 2;
  const float before = from_f16(scale);
  const std::uint16_t fitted = to_f16(static_cast<float>(before * (1 - slope / norms.coded)));
  const double d = double{from_f16(fitted)} / before - 1;
  const double loss = norms.difference + 2 * d * slope + d * d * norms.coded;
  if (!(loss < norms.difference)) return {norms.difference, norms.plain};
  scale = fitted;
  return {loss, norms.plain};
}

}  // namespace quip
