#include "family_common.hpp"

#include <cmath>

#include "quip/core/error.hpp"

namespace quip {

void require_length(const ModelConfig& config, index_t length) {
  if (length <= config.max_positions) return;
  fail(
      "sequences of {} tokens are too long: config.json has max_position_embeddings = {}; make "
      "a token set of shorter sequences",
      length, config.max_positions);
}

float attention_scale(index_t head_dim) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim)));
}

void append_biases(const std::vector<LinearSpec>& linears, std::vector<TensorSpec>& tensors) {
  for (const LinearSpec& linear : linears) {
    if (linear.bias) tensors.push_back({linear.name + ".bias", {linear.rows}});
  }
}

void apply_linear(Backend& backend, const WeightSet& weights, const std::string& name,
                  ConstTensorView x, TensorView y) {
  backend.linear(x, weights[name + ".weight"], weights.optional(name + ".bias"), y);
}

void add_linear(Backend& backend, const WeightSet& weights, const std::string& name,
                ConstTensorView x, TensorView residual) {
  backend.linear_add(x, weights[name + ".weight"], weights.optional(name + ".bias"), residual);
}

}  // namespace quip
