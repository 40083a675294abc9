// The parts that families have in common.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "config_fields.hpp"

#include "quip/model/family.hpp"

namespace quip {

/// A row of the table of models: names as in config.json, and the functions that read and make it.
struct ModelRow {
  std::string_view model_type;
  std::string_view architecture;
  void (*parse)(const ConfigFields& fields, ModelConfig& config);
  std::unique_ptr<Family> (*make)(const ModelConfig& config, const TensorSource& source);
};

/// Returns the rows, each in the file that has its parser and its forward pass.
[[nodiscard]] std::span<const ModelRow> llama_models();
[[nodiscard]] std::span<const ModelRow> opt_models();

/// Returns the row of `model_type`, or nullptr.
[[nodiscard]] const ModelRow* find_model(std::string_view model_type);

/// Reads the sizes that all families have; `intermediate` names the field of the MLP's width.
void parse_sizes(const ConfigFields& fields, const std::string& intermediate, ModelConfig& config);
/// Throws Error naming the sizes unless every head gets the same number of channels.
void require_equal_heads(const ConfigFields& fields, const ModelConfig& config);
/// Reads a field; `fallback` is what transformers takes if it is absent.
void parse_activation(const ConfigFields& fields, const std::string& name,
                      const std::string& fallback, ModelConfig& config);
/// Reads rope_theta and rope_scaling, or rope_parameters, for heads of config.head_dim channels.
void parse_rope(const ConfigFields& fields, ModelConfig& config);

/// True if the configuration ties the head to `embedding`, but `source` has another lm_head.weight.
[[nodiscard]] bool has_own_head(const ModelConfig& config, const TensorSource& source,
                                const std::string& embedding);

/// Throws Error unless the model can take sequences of `length` tokens.
void require_length(const ModelConfig& config, index_t length);

/// Appends the bias tensors of those linears that have one, as [rows].
void append_biases(const std::vector<LinearSpec>& linears, std::vector<TensorSpec>& tensors);

/// Computes y = linear(x): tensors `name`.weight and, if it was loaded, `name`.bias.
void apply_linear(Backend& backend, const WeightSet& weights, const std::string& name,
                  ConstTensorView x, TensorView y);
/// Adds linear(x) to the residual, the same way.
void add_linear(Backend& backend, const WeightSet& weights, const std::string& name,
                ConstTensorView x, TensorView residual);

/// A block of attention and an MLP. Its taps are the inputs of 0: q, k, v; 1: the output
/// projection; 2: the MLP's first linears; 3: its last.
class Decoder : public Family {
 public:
  [[nodiscard]] const ModelConfig& config() const final { return config_; }
  [[nodiscard]] int taps() const final { return 4; }
  [[nodiscard]] index_t tap_width(int tap) const final;
  [[nodiscard]] TensorSpec head() const final;
  [[nodiscard]] index_t max_length() const final { return config_.max_positions; }
  [[nodiscard]] index_t scratch_width(int stage) const override;

 protected:
  explicit Decoder(ModelConfig config) : config_(std::move(config)) {}

  [[nodiscard]] index_t query_width() const { return config_.heads * config_.head_dim; }
  [[nodiscard]] index_t key_width() const { return config_.kv_heads * config_.head_dim; }

  /// The inputs of attention.
  struct Heads {
    Tensor q;
    Tensor k;
    Tensor v;
  };
  /// Applies the linears q_proj, k_proj and v_proj, whose names begin with `at`.
  [[nodiscard]] Heads project(const std::string& at, Backend& backend, const WeightSet& weights,
                              ConstTensorView input) const;
  void attention(index_t block, Backend& backend, const Heads& heads, TensorView output) const;

 private:
  ModelConfig config_;
};

}  // namespace quip
