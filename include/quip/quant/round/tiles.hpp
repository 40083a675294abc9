// Rows of W' = U W D̃ Vᵀ in the layout in which they are rounded.
#pragma once

#include <vector>

#include "quip/core/matrix.hpp"
#include "quip/core/range.hpp"
#include "quip/quant/factor/factor.hpp"

namespace quip {

/// A range of rows, cut into tiles; a tile is stored transposed, [n × lanes]: column k of W' for
/// all of the tile's rows is contiguous, so that rounding works on vectors of independent rows.
/// Lanes are padded with zero rows to a multiple of `lane_unit`.
class RowTiles {
 public:
  static constexpr index_t lane_unit = 32;
  static constexpr index_t most_lanes = 128;

  RowTiles(index_t n, Range rows);

  [[nodiscard]] index_t n() const { return n_; }
  [[nodiscard]] Range rows() const { return rows_; }
  [[nodiscard]] index_t count() const { return (rows_.count() + height_ - 1) / height_; }
  /// Returns the rows of tile t, in the layer's numbering.
  [[nodiscard]] Range rows_of(index_t t) const;
  /// Returns tile t with its padding.
  [[nodiscard]] MatrixView<float> tile(index_t t) const;

 private:
  index_t n_;
  Range rows_;
  index_t height_;
  Buffer<float> data_;
};

/// Returns the factor of each of the n columns of W before the transforms: D̃, and 0 for dead
/// inputs.
[[nodiscard]] std::vector<float> column_factors(const PreparedLayer& layer, index_t n);

/// Returns the largest magnitude in the tiles.
[[nodiscard]] float largest_element(const RowTiles& tiles);

/// Returns rows `rows` of U W D̃ Vᵀ, W's rows divided by the layer's output scales first (dead
/// inputs zeroed). Every element comes out of the same sequence of operations whatever the range.
/// Parallel over OpenMP threads.
[[nodiscard]] RowTiles transform_rows(MatrixView<const float> weights, const PreparedLayer& layer,
                                      const LayerTransforms& transforms, Range rows);

}  // namespace quip
