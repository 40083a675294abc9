// The sums that the language-model head keeps of its logits: a block of threads for each row.
#include "backend/cuda/reduce.hpp"
#include "kernels.hpp"

namespace quip::cuda {
namespace {

constexpr unsigned threads = 256;

__global__ void __launch_bounds__(threads)
    reduce_rows(DeviceView<const float> logits, const std::int32_t* targets, index_t first,
                RowExponentials* rows) {
  auto* scratch = shared_memory<double>();
  const index_t t = blockIdx.x;
  float maximum = -INFINITY;
  for (index_t j = threadIdx.x; j < logits.cols; j += threads) {
    maximum = fmaxf(maximum, logits(t, j));
  }
  maximum = reduce_block(maximum, -INFINITY, Maximum{}, reinterpret_cast<float*>(scratch));
  __syncthreads();
  double sum = 0.0;
  for (index_t j = threadIdx.x; j < logits.cols; j += threads) {
    sum += static_cast<double>(expf(logits(t, j) - maximum));
  }
  sum = reduce_block(sum, 0.0, Sum{}, scratch);
  if (threadIdx.x != 0) return;
  const index_t target = targets[t] - first;
  const bool here = target >= 0 && target < logits.cols;
  rows[t] = {sum, maximum, here ? logits(t, target) : 0.0F};
}

}  // namespace

void sum_exponentials(cudaStream_t stream, ConstTensorView logits, const std::int32_t* targets,
                      index_t first, RowExponentials* rows) {
  if (logits.size() == 0) return;
  launch("sum_exponentials", reduce_rows, static_cast<unsigned>(logits.rows), threads,
         threads / warp_size * sizeof(double), stream, logits, targets, first, rows);
}

}  // namespace quip::cuda
