// Causal attention in blocks of query rows: a block meets only the keys that one of its rows can
// see, so that half of the products are never formed and scratch stays at block × length.
#include <algorithm>
#include <cmath>

#include "operations.hpp"
#include "softmax.hpp"

#include "quip/linalg/blas.hpp"

namespace quip::cpu {
namespace {

constexpr index_t query_block = 128;

/// Returns the first of the keys that query `row` sees, [first, row].
index_t first_visible(index_t row, const AttentionShape& shape) {
  const index_t of_window = shape.window ? std::max<index_t>(0, row - *shape.window + 1) : 0;
  const index_t of_chunk = shape.chunk ? row / *shape.chunk * *shape.chunk : 0;
  return std::max(of_window, of_chunk);
}

/// Attends from query rows [first_row, first_row + out.rows) of one head. q [block × head_dim],
/// out [block × values]; k [T × head_dim], v [T × values]; `sink` is null if there is none;
/// `scores` holds out.rows · T elements.
void attend(ConstTensorView q, ConstTensorView k, ConstTensorView v, index_t first_row,
            const AttentionShape& shape, const float* sink, float* scores, TensorView out) {
  const index_t first_key = first_visible(first_row, shape);
  const index_t keys = first_row + q.rows - first_key;
  const TensorView weights(scores, q.rows, keys);

  // S = scale · Q Kᵀ over the keys that some row of the block sees
  gemm(Transpose::no, Transpose::yes, shape.scale, q, k.middle_rows(first_key, keys), 0.0F,
       weights);
  float inverse_sum[query_block];
  for (index_t i = 0; i < q.rows; ++i) {
    float* row = weights.row(i);
    const index_t begin = first_visible(first_row + i, shape) - first_key;
    const index_t end = first_row + i + 1 - first_key;
    if (shape.soft_cap > 0) cap_softly(row + begin, shape.soft_cap, end - begin);
    std::fill(row, row + begin, 0.0F);
    float maximum = row_maximum(row + begin, end - begin);
    if (sink != nullptr) maximum = std::max(maximum, *sink);
    float sum = exponentiate(row + begin, maximum, end - begin);
    if (sink != nullptr) sum += std::exp(*sink - maximum);
    inverse_sum[i] = 1.0F / sum;
    std::fill(row + end, row + keys, 0.0F);
  }
  // out = P V, normalised last: rows of out are shorter than rows of P
  gemm(Transpose::no, Transpose::no, 1.0F, weights, v.middle_rows(first_key, keys), 0.0F, out);
  for (index_t i = 0; i < q.rows; ++i) {
    for (index_t j = 0; j < out.cols; ++j) out(i, j) *= inverse_sum[i];
  }
}

}  // namespace

void attention(ConstTensorView q, ConstTensorView k, ConstTensorView v, const AttentionShape& shape,
               ConstTensorView sinks, TensorView out) {
  check_attention(q, k, v, shape, sinks, out);
  const Buffer<float> scores(std::min(query_block, q.rows) * q.rows);
  const index_t dim = shape.head_dim;
  const index_t width = shape.values();
  for (index_t head = 0; head < shape.heads; ++head) {
    const index_t kv_head = head / (shape.heads / shape.kv_heads);
    const ConstTensorView keys = k.middle_cols(kv_head * dim, dim);
    const ConstTensorView values = v.middle_cols(kv_head * width, width);
    const float* sink = sinks.size() != 0 ? sinks.data + head : nullptr;
    for (index_t row = 0; row < q.rows; row += query_block) {
      const index_t rows = std::min(query_block, q.rows - row);
      attend(q.middle_cols(head * dim, dim).middle_rows(row, rows), keys, values, row, shape, sink,
             scores.data(), out.middle_cols(head * width, width).middle_rows(row, rows));
    }
  }
}

}  // namespace quip::cpu
