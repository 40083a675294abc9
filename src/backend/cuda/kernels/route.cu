// Tokens to experts, and back. A router's logits are few: a thread chooses for one token.
#include "backend/cuda/kernel.hpp"
#include "kernels.hpp"

namespace quip::cuda {
namespace {

__global__ void choose(DeviceView<const float> logits, index_t chosen, bool renormalised,
                       DeviceView<float> routes) {
  for (index_t t = global_thread(); t < logits.rows; t += all_threads()) {
    float largest = -INFINITY;
    for (index_t e = 0; e < logits.cols; ++e) largest = fmaxf(largest, logits(t, e));
    float all = 0.0F;
    for (index_t e = 0; e < logits.cols; ++e) all += expf(logits(t, e) - largest);
    float sum = 0.0F;  // over the chosen
    float last = INFINITY;
    index_t last_expert = -1;
    for (index_t i = 0; i < chosen; ++i) {
      index_t best = -1;
      for (index_t e = 0; e < logits.cols; ++e) {
        const float logit = logits(t, e);
        const bool after = logit < last || (logit == last && e > last_expert);
        if (after && (best < 0 || logit > logits(t, best))) best = e;
      }
      last = logits(t, best);
      last_expert = best;
      sum += expf(last - largest);
      routes(t, i) = static_cast<float>(best);
      routes(t, chosen + i) = expf(last - largest);
    }
    const float divisor = renormalised ? sum : all;
    for (index_t i = chosen; i < 2 * chosen; ++i) routes(t, i) /= divisor;
  }
}

__global__ void add_rows_to(DeviceView<const float> x, const index_t* rows, const float* weights,
                            DeviceView<float> y) {
  for_elements(x.rows, x.cols,
               [&](index_t i, index_t j) { y(rows[i], j) += weights[i] * x(i, j); });
}

}  // namespace

void route(cudaStream_t stream, ConstTensorView logits, const RouterShape& shape,
           TensorView routes) {
  launch_elementwise("route", choose, logits.rows, stream, logits, shape.chosen, shape.renormalised,
                     routes);
}

void scatter_add_rows(cudaStream_t stream, ConstTensorView x, const index_t* rows,
                      const float* weights, TensorView y) {
  launch_elementwise("scatter_add_rows", add_rows_to, x.size(), stream, x, rows, weights, y);
}

}  // namespace quip::cuda
