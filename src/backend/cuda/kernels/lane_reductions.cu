// Reductions over the positions of a lane: a thread for each lane, so that neighbours read
// neighbouring elements and the order of the sum is that of the positions.
#include "backend/cuda/kernel.hpp"
#include "quant_kernels.hpp"

namespace quip::cuda {
namespace {

constexpr unsigned threads = 128;

__global__ void take_ranges(DeviceView<const float> x, const std::int32_t* position, index_t count,
                            float* low, float* high) {
  const index_t r = global_thread();
  if (r >= x.cols) return;
  float least = 0.0F;
  float most = 0.0F;
  for (index_t i = 0; i < count; ++i) {
    const float value = x(position == nullptr ? i : position[i], r);
    least = fminf(least, value);
    most = fmaxf(most, value);
  }
  low[r] = least;
  high[r] = most;
}

__global__ void add_squares(DeviceView<const float> x, const double* weight, double sign,
                            double* norm) {
  const index_t r = global_thread();
  if (r >= x.cols) return;
  double sum = norm[r];
  for (index_t k = 0; k < x.rows; ++k) {
    const double value = x(k, r);
    sum = __dadd_rn(sum, __dmul_rn(sign * weight[k], value * value));  // not fused, as on the host
  }
  norm[r] = sum;
}

}  // namespace

void RoundingKernels::find_ranges(MatrixView<const float> x, const std::int32_t* position,
                                  index_t count, float* low, float* high) const {
  if (x.cols == 0) return;
  launch("find_ranges", take_ranges, blocks_for(x.cols, threads), threads, 0, stream(), x, position,
         count, low, high);
}

void RoundingKernels::add_weighted_squares(MatrixView<const float> x, const double* weight,
                                           double sign, double* norm) const {
  if (x.cols == 0) return;
  launch("add_weighted_squares", add_squares, blocks_for(x.cols, threads), threads, 0, stream(), x,
         weight, sign, norm);
}

}  // namespace quip::cuda
