// What quantization does on the device: every element comes out of the same sequence of operations
// as on the CPU, so that levels and weights have its bits, whatever rows a rank has. Matrices hold
// a row of W in each column ("lane"), as RoundingTile does. Shapes fit together: callers check.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include "quip/core/matrix.hpp"

namespace quip::cuda {

/// A(i, k) = data[i·row_stride + k·col_stride].
template <typename T>
struct StridedOperand {
  const T* data;
  index_t row_stride;
  index_t col_stride;
};

/// C += A B, or = without `add`: each element one chain of multiply-adds in ascending k, as in
/// linalg/ordered_gemm. A [m × k], B [k × n] and C [m × n] with rows `ld` apart.
template <typename T>
struct OrderedProduct {
  index_t m = 0;
  index_t n = 0;
  index_t k = 0;
  StridedOperand<T> a{};
  const T* b = nullptr;
  index_t ldb = 0;
  T* c = nullptr;
  index_t ldc = 0;
  bool add = false;
};
void ordered_product(cudaStream_t stream, const OrderedProduct<float>& product);

/// y.row(i) = x.row(order[i]).
void gather_rows(cudaStream_t stream, MatrixView<const float> x, const index_t* order,
                 MatrixView<float> y);
/// x(i, j) *= factor[j].
void scale_columns(cudaStream_t stream, MatrixView<float> x, const float* factor);
/// y = xᵀ.
void transpose(cudaStream_t stream, MatrixView<const float> x, MatrixView<float> y);

/// The grid of every element: group[k] (null: 0) chooses the row of `step`, `inverse` and `offset`
/// [groups × lanes] for position k. Null step and inverse: 1 throughout.
struct GridView {
  const float* step = nullptr;
  const float* inverse = nullptr;
  const std::int32_t* group = nullptr;
};
/// x = w·factor + shift, with factor and shift [groups × lanes].
void to_coordinates(cudaStream_t stream, MatrixView<const float> w, const float* factor,
                    const float* shift, const std::int32_t* group, MatrixView<float> x);
/// x(k, pair) = w(k, lane[pair])·factor[pair] + shift[pair].
void spread_lanes(cudaStream_t stream, MatrixView<const float> w, const std::int32_t* lane,
                  const float* factor, const float* shift, MatrixView<float> x);
/// x = clamp(x, 0, top·step).
void clamp_coordinates(cudaStream_t stream, GridView grid, float top, MatrixView<float> x);
/// The ranges, widened to hold 0, of each lane over the positions that `position` lists [count].
void lane_ranges(cudaStream_t stream, MatrixView<const float> x, const std::int32_t* position,
                 index_t count, float* low, float* high);
/// x += step·offset, lane by lane: the weights of a dynamic group become coordinates.
void shift_lanes(cudaStream_t stream, const float* step, const float* offset, MatrixView<float> x);
/// difference = q·step − x.
void level_difference(cudaStream_t stream, MatrixView<const float> q, GridView grid,
                      MatrixView<const float> x, MatrixView<float> difference);
/// norm[r] += sign·Σₖ weight[k]·x(k, r)², k ascending.
void add_weighted_squares(cudaStream_t stream, MatrixView<const float> x, const double* weight,
                          double sign, double* norm);
/// q = clamp(⌊x·inverse + offset⌋, 0, top); `offset` [positions × lanes], or null for ½.
void round_to_nearest(cudaStream_t stream, MatrixView<const float> x, GridView grid,
                      const float* offset, float top, MatrixView<float> q);
/// q = x·inverse.
void unrounded_levels(cudaStream_t stream, MatrixView<const float> x, GridView grid,
                      MatrixView<float> q);
/// Levels beyond [0, top] are cut, and base += (cut − level)·step.
void cut_levels(cudaStream_t stream, GridView grid, float top, MatrixView<float> q,
                MatrixView<float> base);

/// One block of columns that a thread walks for its lane; what `base`, `target` and `error` mean is
/// that of the CPU's kernel of the same name. Pointers are at the block's first column, `ld`
/// elements from column to column.
struct ColumnBlock {
  index_t width = 0;
  index_t lanes = 0;
  index_t ld = 0;
  const float* panel = nullptr;  ///< the block's part of L or H [width × width]
  index_t panel_ld = 0;
  const double* diagonal = nullptr;
  float top = 0;
  GridView grid;                  ///< `group` is at the first column too
  const float* offset = nullptr;  ///< null: ½
  const float* base = nullptr;
  const float* target = nullptr;
  float* error = nullptr;
  float* q = nullptr;
  double* loss = nullptr;
};
/// quant/round/ldlq.
void round_with_feedback(cudaStream_t stream, const ColumnBlock& block);
/// quant/optq; `target` is `base`.
void round_optq(cudaStream_t stream, const ColumnBlock& block);
/// quant/round/greedy: `loss` counts changes; levels below `low` are cut.
void descend(cudaStream_t stream, const ColumnBlock& block, float low);

/// Levels [n × lanes], position[j] that of column j, as codes: row r at packed + r·row_bytes.
void pack_codes(cudaStream_t stream, MatrixView<const float> q, const std::int32_t* position,
                int bits, std::uint8_t* packed, index_t row_bytes);

}  // namespace quip::cuda
