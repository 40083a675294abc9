#include "quip/linalg/ordered_gemm.hpp"

#include <algorithm>
#include <cstring>
#include <span>

namespace quip {
namespace {

// B is packed into panels of k_block × lanes, small enough for the first-level cache.
constexpr index_t k_block = 256;
constexpr index_t panel_bytes = 128;  // one row of a panel: 32 floats or 16 doubles

template <typename T>
constexpr index_t lanes = panel_bytes / static_cast<index_t>(sizeof(T));

// Unaligned vectors of `Bytes` bytes; the compiler lowers them to the target's.
template <typename T, int Bytes>
using Vector [[gnu::vector_size(Bytes), gnu::aligned(sizeof(T)), gnu::may_alias]] = T;

template <typename T>
using MicroKernel = void (*)(index_t k, const T* a, index_t a_row, index_t a_col, const T* b,
                             index_t ldb, bool add, T* c, index_t ldc);

/// Computes C [Rows × lanes] += (or, without `add`, =) A [Rows × k] · B [k × lanes] in registers.
/// Scalars, not views: views would pass through memory, behind the stores of C.
template <typename T, int Rows, int Bytes>
[[gnu::always_inline]] inline void multiply_tile(index_t k, const T* a, index_t a_row,
                                                 index_t a_col, const T* b, index_t ldb, bool add,
                                                 T* c, index_t ldc) {
  using V = Vector<T, Bytes>;
  constexpr int width = Bytes / static_cast<int>(sizeof(T));
  constexpr int vectors = static_cast<int>(panel_bytes) / Bytes;
  V sum[Rows][vectors];
  for (int i = 0; i < Rows; ++i) {
    for (int v = 0; v < vectors; ++v) {
      sum[i][v] = add ? *reinterpret_cast<const V*>(c + i * ldc + v * width) : V{};
    }
  }
  for (index_t step = 0; step < k; ++step) {
    V row[vectors];
    for (int v = 0; v < vectors; ++v) {
      row[v] = *reinterpret_cast<const V*>(b + step * ldb + v * width);
    }
    for (int i = 0; i < Rows; ++i) {
      const T factor = a[i * a_row + step * a_col];
      for (int v = 0; v < vectors; ++v) sum[i][v] += factor * row[v];
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
    index_t k, const T* a, index_t a_row, index_t a_col, const T* b, index_t ldb, bool add, T* c,
    index_t ldc) {
  multiply_tile<T, Rows, 64>(k, a, a_row, a_col, b, ldb, add, c, ldc);
}
template <typename T, int Rows>
[[gnu::target("avx2,fma"), gnu::noinline]] void kernel_avx2(index_t k, const T* a, index_t a_row,
                                                            index_t a_col, const T* b, index_t ldb,
                                                            bool add, T* c, index_t ldc) {
  multiply_tile<T, Rows, 32>(k, a, a_row, a_col, b, ldb, add, c, ldc);
}
#endif
template <typename T, int Rows>
[[gnu::noinline]] void kernel_generic(index_t k, const T* a, index_t a_row, index_t a_col,
                                      const T* b, index_t ldb, bool add, T* c, index_t ldc) {
  multiply_tile<T, Rows, 16>(k, a, a_row, a_col, b, ldb, add, c, ldc);
}

/// The register tiles: tile[r − 1] takes r rows of C.
template <typename T>
using KernelChoice = std::span<const MicroKernel<T>>;

template <typename T>
KernelChoice<T> choose_kernel() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")) {
    static constexpr MicroKernel<T> tiles[rows_avx512] = {
        kernel_avx512<T, 1>, kernel_avx512<T, 2>, kernel_avx512<T, 3>, kernel_avx512<T, 4>,
        kernel_avx512<T, 5>, kernel_avx512<T, 6>, kernel_avx512<T, 7>, kernel_avx512<T, 8>};
    return tiles;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    static constexpr MicroKernel<T> tiles[rows_avx2] = {kernel_avx2<T, 1>, kernel_avx2<T, 2>,
                                                        kernel_avx2<T, 3>};
    return tiles;
  }
#endif
  static constexpr MicroKernel<T> tiles[rows_generic] = {kernel_generic<T, 1>};
  return tiles;
}

/// Multiplies all rows of C by `lanes` columns of B.
template <typename T>
void multiply_panel(KernelChoice<T> kernel, index_t m, index_t k, StridedView<T> a, const T* b,
                    index_t ldb, bool add, T* c, index_t ldc) {
  const auto most = static_cast<index_t>(kernel.size());
  for (index_t i = 0; i < m; i += most) {
    const std::size_t rows = at(std::min(most, m - i));
    kernel[rows - 1](k, a.data + i * a.row_stride, a.row_stride, a.col_stride, b, ldb, add,
                     c + i * ldc, ldc);
  }
}

/// Multiplies the columns beyond the last whole panel, in a padded copy of C, a few rows at a time.
template <typename T>
void multiply_edge(KernelChoice<T> kernel, index_t m, index_t n, index_t k, StridedView<T> a,
                   const T* packed, bool add, T* c, index_t ldc) {
  constexpr index_t rows_at_once = 64;
  alignas(64) T padded[rows_at_once * lanes<T>];
  for (index_t i = 0; i < m; i += rows_at_once) {
    const index_t rows = std::min(rows_at_once, m - i);
    std::fill_n(padded, rows * lanes<T>, T{0});
    for (index_t r = 0; add && r < rows; ++r) {
      std::copy_n(c + (i + r) * ldc, n, padded + r * lanes<T>);
    }
    const StridedView<T> part{a.data + i * a.row_stride, a.row_stride, a.col_stride};
    multiply_panel(kernel, rows, k, part, packed, lanes<T>, true, padded, lanes<T>);
    for (index_t r = 0; r < rows; ++r) std::copy_n(padded + r * lanes<T>, n, c + (i + r) * ldc);
  }
}

/// Copies B [k × width] to a panel, padded with zeros.
template <typename T>
void pack(index_t k, index_t width, const T* b, index_t ldb, T* panel) {
  if (width == lanes<T>) {  // a size that the compiler knows
    for (index_t step = 0; step < k; ++step) {
      std::memcpy(panel + step * lanes<T>, b + step * ldb, panel_bytes);
    }
    return;
  }
  for (index_t step = 0; step < k; ++step) {
    T* row = panel + step * lanes<T>;
    std::copy_n(b + step * ldb, width, row);
    std::fill_n(row + width, lanes<T> - width, T{0});
  }
}

template <typename T>
void multiply(index_t m, index_t n, index_t k, StridedView<T> a, const T* b, index_t ldb, bool add,
              T* c, index_t ldc) {
  static const KernelChoice<T> kernel = choose_kernel<T>();
  alignas(64) T packed[k_block * lanes<T>];
  const bool small = k * ldb <= k_block * lanes<T>;  // fits the first-level cache unpacked
  for (index_t k0 = 0; k0 == 0 || k0 < k; k0 += k_block) {
    const index_t depth = std::min(k_block, k - k0);
    const StridedView<T> a_part{a.data + k0 * a.col_stride, a.row_stride, a.col_stride};
    for (index_t j = 0; j < n; j += lanes<T>) {
      const index_t width = std::min(lanes<T>, n - j);
      const T* part = b + k0 * ldb + j;
      if (small && width == lanes<T>) {
        multiply_panel(kernel, m, depth, a_part, part, ldb, add, c + j, ldc);
        continue;
      }
      pack(depth, width, part, ldb, packed);
      if (width == lanes<T>) {
        multiply_panel<T>(kernel, m, depth, a_part, packed, width, add, c + j, ldc);
      } else {
        multiply_edge<T>(kernel, m, width, depth, a_part, packed, add, c + j, ldc);
      }
    }
    add = true;
  }
}

}  // namespace

template <typename T>
void ordered_gemm(index_t m, index_t n, index_t k, StridedView<T> a, const T* b, index_t ldb, T* c,
                  index_t ldc) {
  multiply(m, n, k, a, b, ldb, true, c, ldc);
}

template <typename T>
void ordered_product(index_t m, index_t n, index_t k, StridedView<T> a, const T* b, index_t ldb,
                     T* c, index_t ldc) {
  multiply(m, n, k, a, b, ldb, false, c, ldc);
}

template void ordered_gemm<float>(index_t, index_t, index_t, StridedView<float>, const float*,
                                  index_t, float*, index_t);
template void ordered_gemm<double>(index_t, index_t, index_t, StridedView<double>, const double*,
                                   index_t, double*, index_t);
template void ordered_product<float>(index_t, index_t, index_t, StridedView<float>, const float*,
                                     index_t, float*, index_t);
template void ordered_product<double>(index_t, index_t, index_t, StridedView<double>, const double*,
                                      index_t, double*, index_t);

}  // namespace quip
