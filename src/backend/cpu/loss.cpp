// The language-model head without its logits: a slice of the vocabulary at a time.
#include <algorithm>
#include <cmath>

#include "operations.hpp"
#include "softmax.hpp"

#include "quip/linalg/blas.hpp"

namespace quip::cpu {
namespace {

constexpr index_t logits_at_once = index_t{1} << 20;  // 4 MiB

}  // namespace

void log_sum_exp_slice(ConstTensorView x, ConstTensorView w, index_t first_row, float soft_cap,
                       std::span<const std::int32_t> targets, std::span<double> running_max,
                       std::span<double> running_sum, std::span<double> target_logit) {
  check_log_sum_exp(x, w, targets, running_max, running_sum, target_logit);
  if (x.rows == 0 || w.rows == 0) return;
  const index_t chunk = std::clamp<index_t>(logits_at_once / w.rows, 1, x.rows);
  const Matrix<float> logits(chunk, w.rows);
  for (index_t first = 0; first < x.rows; first += chunk) {
    const index_t rows = std::min(chunk, x.rows - first);
    gemm(Transpose::no, Transpose::yes, 1.0F, x.middle_rows(first, rows), w, 0.0F,
         logits.view().middle_rows(0, rows));
    for (index_t i = 0; i < rows; ++i) {
      const index_t t = first + i;
      float* row = logits.row(i);
      if (soft_cap > 0) cap_softly(row, soft_cap, w.rows);
      const index_t target = targets[t] - first_row;
      if (target >= 0 && target < w.rows) target_logit[t] = row[target];
      // Σ exp(l − m) over both parts, with m the larger maximum
      const float slice_max = row_maximum(row, w.rows);
      const double slice_sum = exponentiate(row, slice_max, w.rows);
      const double maximum = std::max<double>(running_max[t], slice_max);
      running_sum[t] = running_sum[t] * std::exp(running_max[t] - maximum) +
                       slice_sum * std::exp(slice_max - maximum);
      running_max[t] = maximum;
    }
  }
}

}  // namespace quip::cpu
