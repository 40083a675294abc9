// What the families share.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "config_fields.hpp"

#include "quip/model/family.hpp"

namespace quip {

/// A row of the table of models: what config.json calls a model, and what quip makes of it.
struct ModelRow {
  std::string_view model_type;
  std::string_view architecture;
  void (*parse)(const ConfigFields& fields, ModelConfig& config);
  std::unique_ptr<Family> (*make)(const ModelConfig& config, const TensorSource& source);
};

/// The rows, each in the file that has its parser and its forward pass.
[[nodiscard]] std::span<const ModelRow> llama_models();
[[nodiscard]] std::span<const ModelRow> opt_models();

/// The row of `model_type`, or nullptr.
[[nodiscard]] const ModelRow* find_model(std::string_view model_type);

/// Reads the sizes that all families have; `intermediate` names the field of the MLP's width.
void parse_sizes(const ConfigFields& fields, const std::string& intermediate, ModelConfig& config);
/// Throws Error naming the sizes unless every head gets the same number of channels.
void require_equal_heads(const ConfigFields& fields, const ModelConfig& config);
/// `fallback`: what transformers takes if the field is absent.
void parse_activation(const ConfigFields& fields, const std::string& name,
                      const std::string& fallback, ModelConfig& config);
/// Reads rope_theta and rope_scaling, or rope_parameters, for heads of config.head_dim channels.
void parse_rope(const ConfigFields& fields, ModelConfig& config);

/// True if the configuration ties the head to `embedding`, but `source` has another lm_head.weight.
[[nodiscard]] bool has_own_head(const ModelConfig& config, const TensorSource& source,
                                const std::string& embedding);

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
