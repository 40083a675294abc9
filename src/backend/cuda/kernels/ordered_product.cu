// Products of matrices that lie row by row in memory.
#include "product_tiles.hpp"
#include "quant_kernels.hpp"

namespace quip::cuda {
namespace {

struct PlainOperands {
  index_t m;
  index_t n;
  index_t k;
  StridedView<float> left;
  DeviceView<const float> right;
  DeviceView<float> sum;

  __device__ bool a_runs_down() const { return left.row_stride == 1; }
  __device__ bool b_runs_down() const { return false; }
  __device__ float a(index_t i, index_t l) const {
    return left.data[i * left.row_stride + l * left.col_stride];
  }
  __device__ float b(index_t l, index_t j) const { return right(l, j); }
  __device__ float start(index_t i, index_t j) const { return sum(i, j); }
  __device__ void store(index_t i, index_t j, float value) const { sum(i, j) = value; }
};

__global__ void __launch_bounds__(tile_threads) multiply(PlainOperands operands) {
  multiply_tile<false>(operands, *shared_memory<ProductTiles<float>>());
}

}  // namespace

void RoundingKernels::add_product(StridedView<float> a, MatrixView<const float> b,
                                  MatrixView<float> c) const {
  if (c.size() == 0) return;
  const dim3 grid(blocks_for(c.cols, tile_side), blocks_for(c.rows, tile_side));
  launch("add_product", multiply, grid, tile_threads, sizeof(ProductTiles<float>), stream(),
         PlainOperands{c.rows, c.cols, b.rows, a, b, c});
}

}  // namespace quip::cuda
