#include "quip/quant/round/tiles.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include <omp.h>

namespace quip {
namespace {

constexpr index_t slab_cols = 64;

index_t round_up(index_t value, index_t unit) { return (value + unit - 1) / unit * unit; }

/// Returns the lanes of a tile: as many as share a pass over L, but leaving tiles for every thread.
/// Results do not depend on it.
index_t choose_height(index_t rows) {
  const index_t per_thread = (rows + omp_get_max_threads() - 1) / omp_get_max_threads();
  return std::clamp(round_up(per_thread, RowTiles::lane_unit), RowTiles::lane_unit,
                    RowTiles::most_lanes);
}

/// Puts the tile's columns of W into the order of rounding; `scratch` is as large as the tile.
void reorder(MatrixView<float> tile, const std::vector<index_t>& order, float* scratch) {
  std::copy_n(tile.data, tile.size(), scratch);
  for (index_t k = 0; k < tile.rows; ++k) {
    std::copy_n(scratch + order[at(k)] * tile.cols, tile.cols, tile.row(k));
  }
}

}  // namespace

std::vector<float> column_factors(const PreparedLayer& layer, index_t n) {
  std::vector<float> factor(at(n), 1.0F);
  if (!layer.rescale.empty()) factor = layer.rescale;
  for (std::size_t j = 0; j < layer.dead.size(); ++j) {
    if (layer.dead[j] != 0) factor[j] = 0.0F;
  }
  return factor;
}

RowTiles::RowTiles(index_t n, Range rows)
    : n_(n), rows_(rows), height_(choose_height(rows.count())) {
  data_ = Buffer<float>(n * round_up(rows.count(), lane_unit), 0.0F);
}

Range RowTiles::rows_of(index_t t) const {
  const index_t first = rows_.first + t * height_;
  return {first, std::min(first + height_, rows_.last)};
}

MatrixView<float> RowTiles::tile(index_t t) const {
  return {data_.data() + n_ * t * height_, n_, round_up(rows_of(t).count(), lane_unit)};
}

float largest_element(const RowTiles& tiles) {
  float largest = 0;
  for (index_t t = 0; t < tiles.count(); ++t) {
    const MatrixView<float> tile = tiles.tile(t);
    for (index_t i = 0; i < tile.size(); ++i) largest = std::max(largest, std::abs(tile.data[i]));
  }
  return largest;
}

RowTiles transform_rows(MatrixView<const float> weights, const PreparedLayer& layer,
                        const LayerTransforms& transforms, Range rows) {
  RowTiles tiles(weights.cols, rows);
  if (rows.count() == 0) return tiles;
  const std::vector<float> factor = column_factors(layer, weights.cols);
#pragma omp parallel
  {
    Buffer<float> slab(weights.rows * slab_cols);
    Buffer<float> scratch(weights.rows * slab_cols);
    Buffer<float> mine(rows.count() * slab_cols);
#pragma omp for schedule(dynamic)
    for (index_t first = 0; first < weights.cols; first += slab_cols) {  // U (W D̃), by columns
      const index_t width = std::min(slab_cols, weights.cols - first);
      const MatrixView<float> part(slab.data(), weights.rows, width);
      const float* scale = factor.data() + first;
      for (index_t i = 0; i < weights.rows; ++i) {
        const float* row = weights.row(i) + first;
        for (index_t j = 0; j < width; ++j) part(i, j) = row[j] * scale[j];
        if (layer.output_scale.empty()) continue;
        for (index_t j = 0; j < width; ++j) part(i, j) /= layer.output_scale[at(i)];
      }
      const MatrixView<float> out(mine.data(), rows.count(), width);
      transforms.u->apply_rows(part, rows.first, out, scratch.data());
      for (index_t t = 0; t < tiles.count(); ++t) {
        const MatrixView<float> tile = tiles.tile(t);
        const Range range = tiles.rows_of(t);
        for (index_t i = 0; i < range.count(); ++i) {
          const float* row = out.row(range.first - rows.first + i);
          for (index_t j = 0; j < width; ++j) tile(first + j, i) = row[j];
        }
      }
    }
  }
  if (transforms.v->is_identity() && layer.order.empty()) return tiles;
#pragma omp parallel
  {
    Buffer<float> scratch(tiles.n() * RowTiles::most_lanes);
#pragma omp for schedule(dynamic)
    for (index_t t = 0; t < tiles.count(); ++t) {  // … Vᵀ: V on the left of the transposed tile
      if (!transforms.v->is_identity()) transforms.v->apply(tiles.tile(t), scratch.data());
      if (!layer.order.empty()) reorder(tiles.tile(t), layer.order, scratch.data());
    }
  }
  return tiles;
}

}  // namespace quip
