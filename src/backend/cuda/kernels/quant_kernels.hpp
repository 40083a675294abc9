// The kernels of quantization: every element comes out of the same sequence of operations as on the
// CPU, so that levels and weights have its bits, whatever rows a rank has. Matrices hold a row of W
// in each column ("lane"), as RoundingTile does. Callers have checked the shapes.
#pragma once

#include <cuda_runtime.h>

#include "quip/quant/round/rounding_math.hpp"

namespace quip::cuda {

/// The kernels of rounding, on a stream.
class RoundingKernels : public RoundingMath {
 public:
  void add_product(StridedView<float> a, MatrixView<const float> b,
                   MatrixView<float> c) const override;
  void add_weighted_squares(MatrixView<const float> x, const double* weight, double sign,
                            double* norm) const override;
  void find_ranges(MatrixView<const float> x, const std::int32_t* position, index_t count,
                   float* low, float* high) const override;
  void to_coordinates(MatrixView<const float> w, const float* factor, const float* shift,
                      const std::int32_t* group, MatrixView<float> x) const override;
  void clamp_coordinates(GridView grid, float top, MatrixView<float> x) const override;
  void level_difference(MatrixView<const float> q, GridView grid, MatrixView<const float> x,
                        MatrixView<float> difference) const override;
  void unrounded_levels(MatrixView<const float> x, GridView grid,
                        MatrixView<float> q) const override;
  void round_to_nearest(MatrixView<const float> x, GridView grid, const float* offset, float top,
                        MatrixView<float> q) const override;
  void cut_levels(GridView grid, float top, MatrixView<float> q,
                  MatrixView<float> base) const override;
  void round_with_feedback(const ColumnBlock& block) const override;
  void round_optq(const ColumnBlock& block) const override;
  void descend(const ColumnBlock& block, float low) const override;
  void solve_tile(MatrixView<const float> factor, MatrixView<const float> x,
                  MatrixView<float> target) const override;

 protected:
  [[nodiscard]] virtual cudaStream_t stream() const = 0;
};

/// y.row(i) = x.row(order[i]).
void gather_rows(cudaStream_t stream, MatrixView<const float> x, const index_t* order,
                 MatrixView<float> y);
/// y(i, j) = x(i, lane[j]).
void gather_lanes(cudaStream_t stream, MatrixView<const float> x, const std::int32_t* lane,
                  MatrixView<float> y);
/// x(i, j) *= factor[j].
void scale_columns(cudaStream_t stream, MatrixView<float> x, const float* factor);
/// x(i, j) *= factor[i].
void scale_rows(cudaStream_t stream, MatrixView<float> x, const float* factor);
/// x(i, j) /= divisor[i].
void divide_rows(cudaStream_t stream, MatrixView<float> x, const float* divisor);
/// y = xᵀ.
void transpose(cudaStream_t stream, MatrixView<const float> x, MatrixView<float> y);
/// Packs levels [n × lanes], position[j] that of column j: row r goes to packed + r·row_bytes.
void pack_codes(cudaStream_t stream, MatrixView<const float> q, const std::int32_t* position,
                int bits, std::uint8_t* packed, index_t row_bytes);

}  // namespace quip::cuda
