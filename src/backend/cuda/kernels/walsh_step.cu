// Some levels of the fast Walsh–Hadamard transform in shared memory. Up to three at a time are
// done in registers. The largest distance comes first and no product is fused with a sum, as on the
// CPU.
#include "step_access.hpp"

namespace quip::cuda {
namespace {

constexpr unsigned most_threads = 1024;
constexpr unsigned elements_of_thread = 16;

/// Does log₂(Radix) levels of `tile`, the smallest over elements `distance` apart.
template <int Radix, typename T>
__device__ void run_levels(T* tile, unsigned elements, unsigned distance) {
  for (unsigned set = threadIdx.x; set < elements / Radix; set += blockDim.x) {
    T* const first = tile + set / distance * distance * Radix + set % distance;
    T v[Radix];
    for (int r = 0; r < Radix; ++r) v[r] = first[r * distance];
    for (int half = Radix / 2; half > 0; half /= 2) {
      for (int r = 0; r < Radix; ++r) {
        if ((r & half) != 0) continue;
        const T sum = v[r] + v[r + half];
        v[r + half] = v[r] - v[r + half];
        v[r] = sum;
      }
    }
    for (int r = 0; r < Radix; ++r) first[r * distance] = v[r];
  }
}

/// blockIdx.x numbers runs of columns, blockIdx.y groups of sets.
template <typename T, typename Elements>
__global__ void __launch_bounds__(most_threads)
    transform_sets(StepInput<T, Elements> x, StepOutput<T> y, WalshStep walsh, index_t cols,
                   index_t n, index_t first_group) {
  auto* tile = shared_memory<T>();  // [runs × radix × group × lanes]
  const auto elements = static_cast<unsigned>(walsh.radix * walsh.group * walsh.runs)
                        << walsh.lane_bits;
  const unsigned lanes = 1U << walsh.lane_bits;
  const index_t groups_of_step = walsh.step / walsh.group;
  const index_t group = first_group + blockIdx.y;
  const index_t first_row = group / groups_of_step * walsh.runs * walsh.radix * walsh.step +
                            group % groups_of_step * walsh.group;
  const index_t first_col = static_cast<index_t>(blockIdx.x) << walsh.lane_bits;
  // A group that is all of a step's sets is one run of rows.
  const index_t pitch = walsh.group == 1 ? walsh.step : 1;
  const auto row_of = [&](unsigned e) { return first_row + (e >> walsh.lane_bits) * pitch; };
  const auto col_of = [&](unsigned e) { return first_col + (e & (lanes - 1)); };
  const auto inside = [&](unsigned e) { return row_of(e) < n && col_of(e) < cols; };

  for (unsigned e = threadIdx.x; e < elements; e += blockDim.x) {
    tile[e] = inside(e) ? take(x, row_of(e), col_of(e)) : T{0};
  }
  unsigned distance = elements / static_cast<unsigned>(walsh.runs);
  for (auto rest = static_cast<unsigned>(walsh.radix); rest > 1;) {
    __syncthreads();
    const unsigned radix = rest % 8 == 0 ? 8 : rest;
    rest /= radix;
    distance /= radix;
    if (radix == 8) run_levels<8>(tile, elements, distance);
    if (radix == 4) run_levels<4>(tile, elements, distance);
    if (radix == 2) run_levels<2>(tile, elements, distance);
  }
  __syncthreads();
  for (unsigned e = threadIdx.x; e < elements; e += blockDim.x) {
    if (inside(e)) put(y, row_of(e), col_of(e), tile[e]);
  }
}

unsigned threads_for(index_t elements) {
  const index_t warps = (elements + 32 * elements_of_thread - 1) / (32 * elements_of_thread);
  return 32 * static_cast<unsigned>(warps < most_threads / 32 ? warps : most_threads / 32);
}

template <typename T, typename Elements>
void run(cudaStream_t stream, const StepInput<T, Elements>& x, const StepOutput<T>& y,
         const WalshStep& walsh, index_t n, index_t cols) {
  if (n * cols == 0) return;
  const index_t rows = walsh.radix * walsh.group * walsh.runs;
  const index_t groups = (n + rows - 1) / rows;
  constexpr index_t most_groups = 65535;  // the limit of a grid
  for (index_t first = 0; first < groups; first += most_groups) {
    const index_t count = groups - first < most_groups ? groups - first : most_groups;
    const dim3 grid(blocks_for(cols, index_t{1} << walsh.lane_bits), static_cast<unsigned>(count));
    launch("walsh_step", transform_sets<T, Elements>, grid, threads_for(walsh.elements()),
           at(walsh.elements()) * sizeof(T), stream, x, y, walsh, cols, n, first);
  }
}

}  // namespace

void walsh_step(cudaStream_t stream, const StridedInput<float>& x, const StepOutput<float>& y,
                const WalshStep& walsh, index_t n, index_t cols) {
  run(stream, x, y, walsh, n, cols);
}
void walsh_step(cudaStream_t stream, const StridedInput<double>& x, const StepOutput<double>& y,
                const WalshStep& walsh, index_t n, index_t cols) {
  run(stream, x, y, walsh, n, cols);
}
void walsh_step(cudaStream_t stream, const CodeInput& x, const StepOutput<float>& y,
                const WalshStep& walsh, index_t n, index_t cols) {
  run(stream, x, y, walsh, n, cols);
}

}  // namespace quip::cuda
