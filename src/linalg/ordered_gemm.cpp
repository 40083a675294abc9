#include "quip/linalg/ordered_gemm.hpp"

#include <algorithm>
#include <cstring>

namespace quip {
namespace {

// B is packed into panels of k_block × lanes, small enough for the first-level cache.
constexpr index_t k_block = 256;
constexpr index_t panel_bytes = 128;  // one row of a panel: 32 floats or 16 doubles

template <typename T>
constexpr index_t lanes = panel_bytes / static_cast<index_t>(sizeof(T));

// Unaligned vectors of `Bytes` bytes; the compiler lowers them to what the target has.
template <typename T, int Bytes>
using Vector [[gnu::vector_size(Bytes), gnu::aligned(sizeof(T)), gnu::may_alias]] = T;

template <typename T>
using MicroKernel = void (*)(index_t k, const T* a, index_t a_row, index_t a_col, const T* panel,
                             T* c, index_t ldc);

/// C [Rows × lanes] += A [Rows × k] · panel [k × lanes], accumulators in registers.
template <typename T, int Rows, int Bytes>
[[gnu::always_inline]] inline void multiply_tile(index_t k, const T* a, index_t a_row,
                                                 index_t a_col, const T* panel, T* c, index_t ldc) {
  using V = Vector<T, Bytes>;
  constexpr int width = Bytes / static_cast<int>(sizeof(T));
  constexpr int vectors = static_cast<int>(panel_bytes) / Bytes;
  V sum[Rows][vectors];
  for (int i = 0; i < Rows; ++i) {
    for (int v = 0; v < vectors; ++v) {
      sum[i][v] = *reinterpret_cast<const V*>(c + i * ldc + v * width);
    }
  }
  for (index_t step = 0; step < k; ++step) {
    V b[vectors];
    for (int v = 0; v < vectors; ++v) {
      b[v] = *reinterpret_cast<const V*>(panel + step * lanes<T> + v * width);
    }
    for (int i = 0; i < Rows; ++i) {
      const T factor = a[i * a_row + step * a_col];
      for (int v = 0; v < vectors; ++v) sum[i][v] += factor * b[v];
    }
  }
  for (int i = 0; i < Rows; ++i) {
    for (int v = 0; v < vectors; ++v) {
      *reinterpret_cast<V*>(c + i * ldc + v * width) = sum[i][v];
    }
  }
}

// The register tile is the largest that each instruction set holds without spilling.
constexpr int rows_avx512 = 8;
constexpr int rows_avx2 = 3;
constexpr int rows_generic = 1;

#if defined(__x86_64__)
template <typename T, int Rows>
[[gnu::target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma"), gnu::noinline]] void kernel_avx512(
    index_t k, const T* a, index_t a_row, index_t a_col, const T* panel, T* c, index_t ldc) {
  multiply_tile<T, Rows, 64>(k, a, a_row, a_col, panel, c, ldc);
}
template <typename T, int Rows>
[[gnu::target("avx2,fma"), gnu::noinline]] void kernel_avx2(index_t k, const T* a, index_t a_row,
                                                            index_t a_col, const T* panel, T* c,
                                                            index_t ldc) {
  multiply_tile<T, Rows, 32>(k, a, a_row, a_col, panel, c, ldc);
}
#endif
template <typename T, int Rows>
[[gnu::noinline]] void kernel_generic(index_t k, const T* a, index_t a_row, index_t a_col,
                                      const T* panel, T* c, index_t ldc) {
  multiply_tile<T, Rows, 16>(k, a, a_row, a_col, panel, c, ldc);
}

template <typename T>
struct KernelChoice {
  MicroKernel<T> tile;  ///< `rows` rows of C at a time
  MicroKernel<T> single;
  int rows;
};

template <typename T>
KernelChoice<T> choose_kernel() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")) {
    return {kernel_avx512<T, rows_avx512>, kernel_avx512<T, 1>, rows_avx512};
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return {kernel_avx2<T, rows_avx2>, kernel_avx2<T, 1>, rows_avx2};
  }
#endif
  return {kernel_generic<T, rows_generic>, kernel_generic<T, 1>, rows_generic};
}

/// All rows of C against one packed panel of `lanes` columns.
template <typename T>
void multiply_panel(const KernelChoice<T>& kernel, index_t m, index_t k, StridedView<T> a,
                    const T* panel, T* c, index_t ldc) {
  index_t i = 0;
  for (; i + kernel.rows <= m; i += kernel.rows) {
    kernel.tile(k, a.data + i * a.row_stride, a.row_stride, a.col_stride, panel, c + i * ldc, ldc);
  }
  for (; i < m; ++i) {
    kernel.single(k, a.data + i * a.row_stride, a.row_stride, a.col_stride, panel, c + i * ldc,
                  ldc);
  }
}

/// Columns beyond the last whole panel: through a padded copy of C, a few rows at a time.
template <typename T>
void multiply_edge(const KernelChoice<T>& kernel, index_t m, index_t n, index_t k, StridedView<T> a,
                   const T* panel, T* c, index_t ldc) {
  constexpr index_t rows_at_once = 64;
  alignas(64) T padded[rows_at_once * lanes<T>];
  for (index_t i = 0; i < m; i += rows_at_once) {
    const index_t rows = std::min(rows_at_once, m - i);
    std::fill_n(padded, rows * lanes<T>, T{0});
    for (index_t r = 0; r < rows; ++r) std::copy_n(c + (i + r) * ldc, n, padded + r * lanes<T>);
    const StridedView<T> part{a.data + i * a.row_stride, a.row_stride, a.col_stride};
    multiply_panel(kernel, rows, k, part, panel, padded, lanes<T>);
    for (index_t r = 0; r < rows; ++r) std::copy_n(padded + r * lanes<T>, n, c + (i + r) * ldc);
  }
}

}  // namespace

template <typename T>
void ordered_gemm(index_t m, index_t n, index_t k, StridedView<T> a, const T* b, index_t ldb, T* c,
                  index_t ldc) {
  static const KernelChoice<T> kernel = choose_kernel<T>();
  alignas(64) T panel[k_block * lanes<T>];
  for (index_t k0 = 0; k0 < k; k0 += k_block) {
    const index_t depth = std::min(k_block, k - k0);
    const StridedView<T> a_part{a.data + k0 * a.col_stride, a.row_stride, a.col_stride};
    for (index_t j = 0; j < n; j += lanes<T>) {
      const index_t width = std::min(lanes<T>, n - j);
      for (index_t step = 0; step < depth; ++step) {
        T* row = panel + step * lanes<T>;
        std::copy_n(b + (k0 + step) * ldb + j, width, row);
        std::fill_n(row + width, lanes<T> - width, T{0});
      }
      if (width == lanes<T>) {
        multiply_panel(kernel, m, depth, a_part, panel, c + j, ldc);
      } else {
        multiply_edge(kernel, m, width, depth, a_part, panel, c + j, ldc);
      }
    }
  }
}

template void ordered_gemm<float>(index_t, index_t, index_t, StridedView<float>, const float*,
                                  index_t, float*, index_t);
template void ordered_gemm<double>(index_t, index_t, index_t, StridedView<double>, const double*,
                                   index_t, double*, index_t);

}  // namespace quip
