// Products whose bits depend on their operands alone: 64 × 64 tiles of C, of which a thread keeps
// 4 × 4 in registers and adds to them in ascending k. How C is cut changes nothing.
#include "../kernel.hpp"
#include "quant_kernels.hpp"

namespace quip::cuda {
namespace {

constexpr int side = 64;
constexpr int depth = 16;
constexpr int patch = 4;
constexpr int threads_of_side = side / patch;
constexpr unsigned threads = threads_of_side * threads_of_side;

template <typename T>
struct Tiles {
  T a[depth][side];
  T b[depth][side];
};

__device__ inline float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
__device__ inline double multiply_add(double a, double b, double c) { return fma(a, b, c); }

/// Operands [k0, k0 + depth) of one tile; nothing where the matrices end.
template <typename T>
__device__ void load(const OrderedProduct<T>& p, const T* a, const T* b, index_t row, index_t col,
                     index_t k0, Tiles<T>& tiles) {
  // The faster index is the one along which A lies in memory.
  const bool by_rows = p.a.row_stride == 1;
  for (int i = static_cast<int>(threadIdx.x); i < side * depth; i += static_cast<int>(threads)) {
    const int r = by_rows ? i % side : i / depth;
    const int k = by_rows ? i / side : i % depth;
    const bool inside = row + r < p.m && k0 + k < p.k;
    tiles.a[k][r] = inside ? a[(row + r) * p.a.row_stride + (k0 + k) * p.a.col_stride] : T{0};
    const int c = i % side;
    const int l = i / side;
    tiles.b[l][c] = col + c < p.n && k0 + l < p.k ? b[(k0 + l) * p.ldb + col + c] : T{0};
  }
}

template <typename T>
__global__ void __launch_bounds__(threads) multiply(OrderedProduct<T> p) {
  Tiles<T>& tiles = *shared_memory<Tiles<T>>();
  const index_t row = static_cast<index_t>(blockIdx.y) * side;
  const index_t col = static_cast<index_t>(blockIdx.x) * side;
  const index_t batch = blockIdx.z;
  const T* a = p.a.data + batch * p.a.step;
  const T* b = p.b + batch * p.step;
  T* c = p.c + batch * p.step;
  const int thread_row = static_cast<int>(threadIdx.x) / threads_of_side;
  const int thread_col = static_cast<int>(threadIdx.x) % threads_of_side;
  // A thread's columns lie `threads_of_side` apart, so that a warp reads and writes runs of them.
  const auto row_of = [&](int i) { return row + thread_row * patch + i; };
  const auto col_of = [&](int j) { return col + thread_col + j * threads_of_side; };

  T sum[patch][patch];
  for (int i = 0; i < patch; ++i) {
    for (int j = 0; j < patch; ++j) {
      const bool read = p.add && row_of(i) < p.m && col_of(j) < p.n;
      sum[i][j] = read ? c[row_of(i) * p.ldc + col_of(j)] : T{0};
    }
  }
  for (index_t k0 = 0; k0 < p.k; k0 += depth) {
    __syncthreads();
    load(p, a, b, row, col, k0, tiles);
    __syncthreads();
    // Not beyond the end: a product with zero could turn −0 into 0.
    const int count = p.k - k0 < depth ? static_cast<int>(p.k - k0) : depth;
    for (int k = 0; k < count; ++k) {
      for (int i = 0; i < patch; ++i) {
        const T factor = tiles.a[k][thread_row * patch + i];
        for (int j = 0; j < patch; ++j) {
          sum[i][j] = multiply_add(factor, tiles.b[k][thread_col + j * threads_of_side], sum[i][j]);
        }
      }
    }
  }
  for (int i = 0; i < patch; ++i) {
    for (int j = 0; j < patch; ++j) {
      if (row_of(i) < p.m && col_of(j) < p.n) c[row_of(i) * p.ldc + col_of(j)] = sum[i][j];
    }
  }
}

template <typename T>
void run(cudaStream_t stream, const OrderedProduct<T>& product) {
  if (product.m == 0 || product.n == 0) return;
  constexpr index_t most_batches = 65535;  // what a grid can have
  for (index_t first = 0; first < product.batches; first += most_batches) {
    OrderedProduct<T> part = product;
    part.batches = product.batches - first < most_batches ? product.batches - first : most_batches;
    part.a.data += first * part.a.step;
    part.b += first * part.step;
    part.c += first * part.step;
    const dim3 grid(blocks_for(part.n, side), blocks_for(part.m, side),
                    static_cast<unsigned>(part.batches));
    launch("ordered_product", multiply<T>, grid, threads, sizeof(Tiles<T>), stream, part);
  }
}

}  // namespace

void ordered_product(cudaStream_t stream, const OrderedProduct<float>& product) {
  run(stream, product);
}
void ordered_product(cudaStream_t stream, const OrderedProduct<double>& product) {
  run(stream, product);
}

}  // namespace quip::cuda
