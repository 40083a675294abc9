// Rounding on the host, one thread a call. The kernels that walk columns stand with their methods.
#pragma once

#include "quip/quant/round/rounding_math.hpp"

namespace quip {

class HostMath final : public RoundingMath {
 public:
  void clear(void* here, std::size_t bytes) const override;
  void copy(MatrixView<const float> x, MatrixView<float> y) const override;
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
  [[nodiscard]] std::unique_ptr<TileCoder> tile_coder(trellis::Codebook codebook,
                                                      int bits) const override;

 private:
  [[nodiscard]] std::shared_ptr<void> allocate(std::size_t bytes,
                                               std::string_view what) const override;
  void to_here(const void* host, void* here, std::size_t bytes) const override;
  void to_host(const void* here, void* host, std::size_t bytes) const override;
};

/// Makes a coder of tiles with feedback inside them, for HostMath's memory alone.
[[nodiscard]] std::unique_ptr<TileCoder> make_step_coder(trellis::Codebook codebook, int bits);

}  // namespace quip
