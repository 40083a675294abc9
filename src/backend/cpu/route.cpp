// Tokens to experts, and back.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/simd.hpp"
#include "operations.hpp"

namespace quip::cpu {
namespace {

QUIP_SIMD void add_multiple(const float* x, float factor, index_t n, float* y) {
#pragma omp simd
  for (index_t j = 0; j < n; ++j) y[j] += factor * x[j];
}

}  // namespace

void route(ConstTensorView logits, const RouterShape& shape, TensorView routes) {
  check_route(logits, shape, routes);
  std::vector<index_t> order(at(shape.experts));
  for (index_t t = 0; t < logits.rows; ++t) {
    const float* logit = logits.row(t);
    std::iota(order.begin(), order.end(), index_t{0});
    std::partial_sort(order.begin(), order.begin() + shape.chosen, order.end(),
                      [&](index_t a, index_t b) {
                        return logit[a] > logit[b] || (logit[a] == logit[b] && a < b);
                      });
    const float largest = logit[order[0]];
    // A renormalised softmax is one over the chosen alone.
    const index_t count = shape.renormalised ? shape.chosen : shape.experts;
    float sum = 0.0F;
    for (index_t i = 0; i < count; ++i) sum += std::exp(logit[order[at(i)]] - largest);
    float* row = routes.row(t);
    for (index_t i = 0; i < shape.chosen; ++i) {
      const index_t expert = order[at(i)];
      row[i] = static_cast<float>(expert);
      row[shape.chosen + i] = std::exp(logit[expert] - largest) / sum;
    }
  }
}

void gather_rows(ConstTensorView x, std::span<const index_t> rows, TensorView y) {
  check_rows(y, rows, x);
  for (index_t i = 0; i < y.rows; ++i) std::copy_n(x.row(rows[at(i)]), x.cols, y.row(i));
}

void scatter_add_rows(ConstTensorView x, std::span<const index_t> rows,
                      std::span<const float> weights, TensorView y) {
  check_rows(x, rows, y);
  for (index_t i = 0; i < x.rows; ++i) {
    add_multiple(x.row(i), weights[at(i)], x.cols, y.row(rows[at(i)]));
  }
}

}  // namespace quip::cpu
