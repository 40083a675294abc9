// Some levels of the fast Walsh–Hadamard transform in shared memory. No product is fused with a
// sum, as on the CPU.
#include "step_access.hpp"
#include "walsh_levels.hpp"

namespace quip::cuda {
namespace {

constexpr unsigned most_threads = 1024;
constexpr unsigned elements_of_thread = 16;

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
  const unsigned run = elements / static_cast<unsigned>(walsh.runs);
  run_all_levels(tile, elements, run, static_cast<unsigned>(walsh.radix));
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
