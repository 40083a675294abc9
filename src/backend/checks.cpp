#include "checks.hpp"

#include "quip/core/error.hpp"

namespace quip {

void require_shape(ConstTensorView view, index_t rows, index_t cols, std::string_view what) {
  if (view.rows != rows || view.cols != cols) {
    fail("{} is [{} × {}] and must be [{} × {}]", what, view.rows, view.cols, rows, cols);
  }
}

void check_copy(index_t host, ConstTensorView device) {
  if (host != device.size()) {
    fail("copying {} host elements to or from a [{} × {}] matrix", host, device.rows, device.cols);
  }
}

void check_rope(ConstTensorView x, const RopeShape& shape, ConstTensorView cosine,
                ConstTensorView sine) {
  require_shape(x, x.rows, shape.heads * shape.head_dim, "rope: x");
  require_shape(sine, cosine.rows, cosine.cols, "rope: sine");
  if (shape.first < 0 || shape.first + 2 * cosine.cols > shape.head_dim) {
    fail("rope: {} pairs of channels in the table, heads of {}, of which {} stay", cosine.cols,
         shape.head_dim, shape.first);
  }
  if (cosine.rows < x.rows) fail("rope: {} positions in the table, {} tokens", cosine.rows, x.rows);
}

void check_attention(ConstTensorView q, ConstTensorView k, ConstTensorView v,
                     const AttentionShape& shape, ConstTensorView sinks, ConstTensorView out) {
  if (shape.heads < 1 || shape.kv_heads < 1 || shape.heads % shape.kv_heads != 0) {
    fail("attention: {} heads cannot share {} key/value heads", shape.heads, shape.kv_heads);
  }
  if (!(shape.soft_cap >= 0)) fail("attention: scores capped at {}", shape.soft_cap);
  if (shape.window && *shape.window < 1) fail("attention: a window of {} keys", *shape.window);
  if (shape.chunk && *shape.chunk < 1) fail("attention: chunks of {} positions", *shape.chunk);
  if (sinks.size() != 0) require_shape(sinks, 1, shape.heads, "attention: sinks");
  require_shape(q, q.rows, shape.heads * shape.head_dim, "attention: q");
  require_shape(k, q.rows, shape.kv_heads * shape.head_dim, "attention: k");
  require_shape(v, q.rows, shape.kv_heads * shape.values(), "attention: v");
  require_shape(out, q.rows, shape.heads * shape.values(), "attention: out");
}

void check_route(ConstTensorView logits, const RouterShape& shape, ConstTensorView correction,
                 ConstTensorView routes) {
  if (shape.chosen < 1 || shape.chosen > shape.experts) {
    fail("route: {} of {} experts", shape.chosen, shape.experts);
  }
  constexpr index_t most_groups = 64;  // bits of a mask
  const index_t in_group = shape.groups > 0 ? shape.experts / shape.groups : 0;
  if (shape.groups < 1 || shape.groups > most_groups || in_group * shape.groups != shape.experts ||
      shape.chosen_groups < 1 || shape.chosen_groups > shape.groups ||
      shape.chosen > shape.chosen_groups * in_group || (shape.groups > 1 && in_group < 2)) {
    fail("route: {} of {} experts, in {} of {} groups", shape.chosen, shape.experts,
         shape.chosen_groups, shape.groups);
  }
  if (correction.size() != 0) require_shape(correction, 1, shape.experts, "route: correction");
  require_shape(logits, logits.rows, shape.experts, "route: logits");
  require_shape(routes, logits.rows, 2 * shape.chosen, "route: routes");
}

void check_factors(std::span<const float> factors, ConstTensorView x) {
  if (std::ssize(factors) == x.rows) return;
  fail("scale_rows: {} factors for {} rows", factors.size(), x.rows);
}

void check_rows(ConstTensorView some, std::span<const index_t> rows, ConstTensorView all) {
  require_shape(some, static_cast<index_t>(rows.size()), all.cols, "rows of a matrix");
  for (const index_t row : rows) {
    if (row < 0 || row >= all.rows) fail("row {} of a matrix of {} rows", row, all.rows);
  }
}

void check_log_sum_exp(ConstTensorView x, ConstTensorView w, std::span<const std::int32_t> targets,
                       std::span<const double> running_max, std::span<const double> running_sum,
                       std::span<const double> target_logit) {
  require_shape(w, w.rows, x.cols, "log_sum_exp_slice: w");
  const auto rows = at(x.rows);
  if (targets.size() != rows || running_max.size() != rows || running_sum.size() != rows ||
      target_logit.size() != rows) {
    fail("log_sum_exp_slice: {} rows with {} targets, {} maxima, {} sums and {} target logits",
         x.rows, targets.size(), running_max.size(), running_sum.size(), target_logit.size());
  }
}

void check_channel_maximum(ConstTensorView x, std::span<const float> maximum) {
  if (static_cast<index_t>(maximum.size()) != x.cols) {
    fail("channel_maximum: {} maxima for {} channels", maximum.size(), x.cols);
  }
}

void check_hessian(ConstTensorView x, std::span<const float> scale, MatrixView<const double> sum) {
  if (static_cast<index_t>(scale.size()) != x.cols || sum.rows != x.cols || sum.cols > x.cols) {
    fail("accumulate_hessian: {} channels, {} scales, a [{} × {}] sum", x.cols, scale.size(),
         sum.rows, sum.cols);
  }
}

void check_cross(ConstTensorView e, std::span<const float> e_scale, ConstTensorView x,
                 std::span<const float> scale, MatrixView<const double> sum) {
  if (e.rows == x.rows && std::ssize(e_scale) == e.cols && std::ssize(scale) == x.cols &&
      sum.rows == e.cols && sum.cols == x.cols) {
    return;
  }
  fail("accumulate_cross: [{} × {}] with {} scales, [{} × {}] with {} scales, a [{} × {}] sum",
       e.rows, e.cols, e_scale.size(), x.rows, x.cols, scale.size(), sum.rows, sum.cols);
}

void fail_outside_16_bits() {
  fail(
      "accumulate_hessian: an activation times its channel's scale is beyond 16 bits, or not a "
      "number; the scales must come from the maxima of the same activations");
}

void check_size(index_t rows, index_t cols) {
  constexpr index_t most = index_t{1} << 46;  // elements: beyond any machine, and no overflow
  if (rows < 0 || cols < 0 || (cols > 0 && rows > most / cols)) {
    fail("cannot allocate a [{} × {}] matrix", rows, cols);
  }
}

}  // namespace quip
