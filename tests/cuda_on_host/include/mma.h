// The warp matrix functions on the host: every lane holds a whole fragment and computes all of it.
#pragma once

#include "cuda_bf16.h"
#include "cuda_runtime.h"

namespace nvcuda::wmma {

struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
enum layout_t { mem_row_major, mem_col_major };

template <typename Use, int M, int N, int K, typename T, typename Layout = void>
struct fragment {
  static constexpr int rows = std::is_same_v<Use, matrix_b> ? K : M;
  static constexpr int cols = std::is_same_v<Use, matrix_a> ? K : N;
  float value[rows][cols];
};

inline float to_float(float x) { return x; }
inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename Fragment>
void fill_fragment(Fragment& f, float value) {
  for (auto& row : f.value) {
    for (float& element : row) element = value;
  }
}

// The pointers of the device must be aligned to 32 bytes, the leading dimension to 16.
inline void check(const void* pointer, std::size_t ld_bytes);

template <typename Use, int M, int N, int K, typename T, typename Layout>
void load_matrix_sync(fragment<Use, M, N, K, T, Layout>& f, const T* p, unsigned ld) {
  check(p, ld * sizeof(T));
  __syncwarp();
  for (int i = 0; i < f.rows; ++i) {
    for (int j = 0; j < f.cols; ++j) {
      f.value[i][j] = to_float(std::is_same_v<Layout, col_major> ? p[j * ld + i] : p[i * ld + j]);
    }
  }
  __syncwarp();
}
template <int M, int N, int K>
void load_matrix_sync(fragment<accumulator, M, N, K, float>& f, const float* p, unsigned ld,
                      layout_t layout) {
  check(p, ld * sizeof(float));
  __syncwarp();
  for (int i = 0; i < M; ++i) {
    for (int j = 0; j < N; ++j)
      f.value[i][j] = layout == mem_row_major ? p[i * ld + j] : p[j * ld + i];
  }
  __syncwarp();
}
template <int M, int N, int K>
void store_matrix_sync(float* p, const fragment<accumulator, M, N, K, float>& f, unsigned ld,
                       layout_t layout) {
  check(p, ld * sizeof(float));
  __syncwarp();
  for (int i = 0; i < M; ++i) {
    for (int j = 0; j < N; ++j)
      (layout == mem_row_major ? p[i * ld + j] : p[j * ld + i]) = f.value[i][j];
  }
  __syncwarp();
}
template <typename D, typename A, typename B>
void mma_sync(D& d, const A& a, const B& b, const D& c) {
  for (int i = 0; i < D::rows; ++i) {
    for (int j = 0; j < D::cols; ++j) {
      float sum = c.value[i][j];
      for (int k = 0; k < A::cols; ++k) sum += a.value[i][k] * b.value[k][j];
      d.value[i][j] = sum;
    }
  }
}

inline void check(const void* pointer, std::size_t ld_bytes) {
  if (reinterpret_cast<std::uintptr_t>(pointer) % 32 != 0 || ld_bytes % 16 != 0) __builtin_trap();
}

}  // namespace nvcuda::wmma
