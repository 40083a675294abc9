// The fast Walsh–Hadamard transform over rows, up to eight levels at a time in shared memory: the
// 2⁸ rows that meet in these levels, 32 columns of each. The largest distance comes first and no
// product is fused with a sum, as on the CPU.
#include "../kernel.hpp"
#include "quant_kernels.hpp"

namespace quip::cuda {
namespace {

constexpr unsigned columns = 32;
constexpr unsigned rows_of_threads = 8;
constexpr index_t most_rows = 256;

/// Rows base + r·step for r < radix; blockIdx.y numbers the sets: set s begins at row
/// (s / step)·radix·step + s % step.
template <typename T>
__global__ void transform_sets(DeviceView<T> x, unsigned radix, index_t step, index_t first_set) {
  auto* rows = shared_memory<T>();  // [radix × columns]
  const index_t set = first_set + blockIdx.y;
  const index_t base = set / step * step * radix + set % step;
  const index_t col = static_cast<index_t>(blockIdx.x) * columns + threadIdx.x;
  const bool inside = col < x.cols;
  for (unsigned r = threadIdx.y; r < radix; r += rows_of_threads) {
    if (inside) rows[r * columns + threadIdx.x] = x(base + r * step, col);
  }
  for (unsigned distance = radix / 2; distance > 0; distance /= 2) {
    __syncthreads();
    for (unsigned pair = threadIdx.y; pair < radix / 2; pair += rows_of_threads) {
      const unsigned low = pair / distance * 2 * distance + pair % distance;
      T& a = rows[low * columns + threadIdx.x];
      T& b = rows[(low + distance) * columns + threadIdx.x];
      if (!inside) continue;
      const T sum = a + b;
      b = a - b;
      a = sum;
    }
  }
  __syncthreads();
  for (unsigned r = threadIdx.y; r < radix; r += rows_of_threads) {
    if (inside) x(base + r * step, col) = rows[r * columns + threadIdx.x];
  }
}

}  // namespace

template <typename T>
void walsh_hadamard(cudaStream_t stream, MatrixView<T> x, index_t size, index_t stride) {
  for (index_t rest = size; rest > 1 && x.size() != 0;) {
    const index_t radix = rest < most_rows ? rest : most_rows;
    rest /= radix;
    const index_t sets = x.rows / radix;
    constexpr index_t most_sets = 65535;  // what a grid can have
    for (index_t first = 0; first < sets; first += most_sets) {
      const index_t count = sets - first < most_sets ? sets - first : most_sets;
      const dim3 grid(blocks_for(x.cols, columns), static_cast<unsigned>(count));
      launch("walsh_hadamard", transform_sets<T>, grid, dim3(columns, rows_of_threads),
             static_cast<std::size_t>(radix) * columns * sizeof(T), stream, x,
             static_cast<unsigned>(radix), rest * stride, first);
    }
  }
}
template void walsh_hadamard(cudaStream_t, MatrixView<float>, index_t, index_t);
template void walsh_hadamard(cudaStream_t, MatrixView<double>, index_t, index_t);

}  // namespace quip::cuda
