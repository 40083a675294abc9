// What the families share.
#pragma once

#include <string>
#include <vector>

#include "quip/model/family.hpp"

namespace quip {

/// True if `source` has a lm_head.weight that is not `embedding`.
[[nodiscard]] bool has_own_head(const TensorSource& source, const std::string& embedding);

/// Says so if config.json ties the head to the embedding but the model has its own; else empty.
[[nodiscard]] std::string note_on_head(const Family& family);

/// Throws Error unless the model can take sequences of `length` tokens.
void require_length(const ModelConfig& config, index_t length);

/// Multiplies q·k: head_dim^(−1/2).
[[nodiscard]] float attention_scale(index_t head_dim);

/// The bias tensors of those linears that have one, as [rows].
void append_biases(const std::vector<LinearSpec>& linears, std::vector<TensorSpec>& tensors);

/// y = linear(x): tensors `name`.weight and, if it was loaded, `name`.bias.
void apply_linear(Backend& backend, const WeightSet& weights, const std::string& name,
                  ConstTensorView x, TensorView y);
/// residual += linear(x), the same way.
void add_linear(Backend& backend, const WeightSet& weights, const std::string& name,
                ConstTensorView x, TensorView residual);

}  // namespace quip
