// Products of matrices that lie row by row in memory.
#include "product_tiles.hpp"
#include "quant_kernels.hpp"

namespace quip::cuda {
namespace {

template <typename T>
struct PlainOperands {
  index_t m;
  index_t n;
  index_t k;
  OrderedProduct<T> p;

  __device__ bool a_runs_down() const { return p.a.row_stride == 1; }
  __device__ bool b_runs_down() const { return false; }
  __device__ T a(index_t i, index_t l) const {
    return p.a.data[i * p.a.row_stride + l * p.a.col_stride];
  }
  __device__ T b(index_t l, index_t j) const { return p.b[l * p.ldb + j]; }
  __device__ T start(index_t i, index_t j) const { return p.add ? p.c[i * p.ldc + j] : T{0}; }
  __device__ void store(index_t i, index_t j, T value) const { p.c[i * p.ldc + j] = value; }
};

template <typename T>
__global__ void __launch_bounds__(tile_threads) multiply(OrderedProduct<T> p) {
  const PlainOperands<T> operands{p.m, p.n, p.k, p};
  multiply_tile<false>(operands, *shared_memory<ProductTiles<T>>());
}

template <typename T>
void run(cudaStream_t stream, const OrderedProduct<T>& product) {
  if (product.m == 0 || product.n == 0) return;
  const dim3 grid(blocks_for(product.n, tile_side), blocks_for(product.m, tile_side));
  launch("ordered_product", multiply<T>, grid, tile_threads, sizeof(ProductTiles<T>), stream,
         product);
}

}  // namespace

void ordered_product(cudaStream_t stream, const OrderedProduct<float>& product) {
  run(stream, product);
}

}  // namespace quip::cuda
