// Σ z zᵀ from the products of its slices; every term and every sum is an integer below 2⁵³, so that
// doubles hold it exactly.
#include "backend/cuda/kernel.hpp"
#include "kernels.hpp"

namespace quip::cuda {
namespace {

__global__ void combine(DeviceView<const std::int32_t> high, DeviceView<const std::int32_t> cross,
                        DeviceView<const std::int32_t> low, const std::int64_t* row_sums,
                        const std::int64_t* col_sums, double constant, DeviceView<double> sum) {
  for_elements(sum.rows, sum.cols, [&](index_t row, index_t col) {
    const double products = 65536.0 * high(row, col) + 256.0 * cross(row, col) + low(row, col);
    const double shift = 128.0 * static_cast<double>(row_sums[row] + col_sums[col]) + constant;
    sum(row, col) += products + shift;
  });
}

}  // namespace

void combine_slices(cudaStream_t stream, MatrixView<const std::int32_t> high,
                    MatrixView<const std::int32_t> cross, MatrixView<const std::int32_t> low,
                    const std::int64_t* row_sums, const std::int64_t* col_sums, index_t tokens,
                    MatrixView<double> sum) {
  const double constant = 128.0 * 128.0 * static_cast<double>(tokens);
  launch_elementwise("combine_slices", combine, sum.size(), stream, high, cross, low, row_sums,
                     col_sums, constant, sum);
}

}  // namespace quip::cuda
