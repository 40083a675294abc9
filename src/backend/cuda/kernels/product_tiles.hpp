// A product C = A B whose bits depend on its operands alone: 64 × 64 tiles of C, of which a thread
// keeps 4 × 4 in registers and adds to them in ascending k. How C is cut changes nothing.
#pragma once

#include "backend/cuda/kernel.hpp"

namespace quip::cuda {

inline constexpr int tile_side = 64;
inline constexpr int tile_depth = 16;
inline constexpr int tile_patch = 4;
inline constexpr int threads_of_side = tile_side / tile_patch;
inline constexpr unsigned tile_threads = threads_of_side * threads_of_side;

/// The padding spreads the columns of memory over banks and keeps groups of four aligned.
template <typename T>
struct ProductTiles {
  T a[tile_depth][tile_side + 4];
  T b[tile_depth][tile_side + 4];
};

__device__ inline float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
__device__ inline double multiply_add(double a, double b, double c) { return fma(a, b, c); }

/// The element of a slice of depth × side that this thread loads as its `i`-th: threads run along
/// the side or the depth, as memory does.
struct SlicePlace {
  int depth;
  int side;
  __device__ SlicePlace(int i, bool along_depth)
      : depth(along_depth ? i % tile_depth : i / tile_side),
        side(along_depth ? i / tile_depth : i % tile_side) {}
};

/// Multiplies one tile. `p` has shape m, n, k and the elements of one batch: a(i, k), b(k, j),
/// where C starts, where it goes. Down: C lies column by column in memory.
template <bool Down, typename T, typename Operands>
__device__ void multiply_tile(const Operands& p, ProductTiles<T>& tiles) {
  const index_t row = static_cast<index_t>(blockIdx.y) * tile_side;
  const index_t col = static_cast<index_t>(blockIdx.x) * tile_side;
  const auto thread = static_cast<int>(threadIdx.x);
  // Along memory a thread's elements lie `threads_of_side` apart, so that a warp writes runs.
  const int run = thread % threads_of_side;
  const int block = thread / threads_of_side * tile_patch;
  const auto row_of = [&](int i) { return Down ? run + i * threads_of_side : block + i; };
  const auto col_of = [&](int j) { return Down ? block + j : run + j * threads_of_side; };
  const auto inside = [&](int i, int j) { return row + row_of(i) < p.m && col + col_of(j) < p.n; };

  T sum[tile_patch][tile_patch];
  for (int i = 0; i < tile_patch; ++i) {
    for (int j = 0; j < tile_patch; ++j) {
      sum[i][j] = inside(i, j) ? p.start(row + row_of(i), col + col_of(j)) : T{0};
    }
  }
  for (index_t k0 = 0; k0 < p.k; k0 += tile_depth) {
    __syncthreads();
    for (int e = thread; e < tile_side * tile_depth; e += static_cast<int>(tile_threads)) {
      const SlicePlace a(e, !p.a_runs_down());
      const bool in_a = row + a.side < p.m && k0 + a.depth < p.k;
      tiles.a[a.depth][a.side] = in_a ? p.a(row + a.side, k0 + a.depth) : T{0};
      const SlicePlace b(e, p.b_runs_down());
      const bool in_b = col + b.side < p.n && k0 + b.depth < p.k;
      tiles.b[b.depth][b.side] = in_b ? p.b(k0 + b.depth, col + b.side) : T{0};
    }
    __syncthreads();
    // Stops at the end: a product with zero could turn −0 into 0.
    const int count = p.k - k0 < tile_depth ? static_cast<int>(p.k - k0) : tile_depth;
    for (int k = 0; k < count; ++k) {
      for (int i = 0; i < tile_patch; ++i) {
        const T factor = tiles.a[k][row_of(i)];
        for (int j = 0; j < tile_patch; ++j) {
          sum[i][j] = multiply_add(factor, tiles.b[k][col_of(j)], sum[i][j]);
        }
      }
    }
  }
  for (int i = 0; i < tile_patch; ++i) {
    for (int j = 0; j < tile_patch; ++j) {
      if (inside(i, j)) p.store(row + row_of(i), col + col_of(j), sum[i][j]);
    }
  }
}

}  // namespace quip::cuda
