#include "quip/model/work.hpp"

#include <algorithm>

namespace quip {
namespace {

/// Experts count by their average share of the tokens: their sum is that of any shares.
double flops_of(const BlockPlan& plan, const Operation& operation, index_t length) {
  if (const auto* linear = std::get_if<op::Linear>(&operation)) {
    const std::optional<RoutedRows>& routed = plan.activations[at(linear->from)].rows;
    return 2.0 * static_cast<double>(length) * static_cast<double>(linear->rows) *
           static_cast<double>(linear->cols) * (routed ? routed->share : 1.0);
  }
  const auto* attention = std::get_if<op::Attention>(&operation);
  return attention != nullptr ? attention_flops(attention->shape, length) : 0.0;
}

double flops_of(const BlockPlan& plan, Range operations, index_t length) {
  double flops = 0;
  for (index_t i = operations.first; i < operations.last; ++i) {
    flops += flops_of(plan, plan.operations[at(i)], length);
  }
  return flops;
}

}  // namespace

double attention_flops(const AttentionShape& shape, index_t length) {
  const auto keys_of = [&](index_t queries) {
    const index_t window = std::min(queries, shape.window.value_or(queries));
    // 1 + 2 + … + window, then `window` keys for each later query.
    return window * (window + 1) / 2 + (queries - window) * window;
  };
  const index_t chunk = shape.chunk.value_or(length);
  const index_t keys = length / chunk * keys_of(chunk) + keys_of(length % chunk);
  return 2.0 * static_cast<double>(shape.heads * (shape.head_dim + shape.values())) *
         static_cast<double>(keys);
}

double stage_flops(const BlockPlan& plan, int stage, index_t length) {
  return flops_of(plan, plan.stage(stage), length);
}

double block_flops(const BlockPlan& plan, index_t length) {
  return flops_of(plan, {0, std::ssize(plan.operations)}, length);
}

}  // namespace quip
