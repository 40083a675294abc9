// The parts that families have in common.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "config_fields.hpp"

#include "quip/model/family.hpp"

namespace quip {

/// A row of the table of models: names as in config.json, and the functions that read it
/// and write down its plan.
struct ModelRow {
  std::string_view model_type;
  std::string_view architecture;
  void (*parse)(const ConfigFields& fields, ModelConfig& config);
  ModelPlan (*plan)(const ModelConfig& config, const TensorSource& source);
};

/// Returns the rows, each in the file that has its parser and its plan.
[[nodiscard]] std::span<const ModelRow> deepseek_v3_models();
[[nodiscard]] std::span<const ModelRow> ernie4_5_moe_models();
[[nodiscard]] std::span<const ModelRow> gemma_models();
[[nodiscard]] std::span<const ModelRow> glm4_moe_models();
[[nodiscard]] std::span<const ModelRow> gpt_oss_models();
[[nodiscard]] std::span<const ModelRow> granite_models();
[[nodiscard]] std::span<const ModelRow> llama4_models();
[[nodiscard]] std::span<const ModelRow> llama_models();
[[nodiscard]] std::span<const ModelRow> minimax_m2_models();
[[nodiscard]] std::span<const ModelRow> mixtral_models();
[[nodiscard]] std::span<const ModelRow> olmo2_models();
[[nodiscard]] std::span<const ModelRow> opt_models();
[[nodiscard]] std::span<const ModelRow> phi3_models();
[[nodiscard]] std::span<const ModelRow> qwen3_models();

/// Returns the row of `model_type`, or nullptr.
[[nodiscard]] const ModelRow* find_model(std::string_view model_type);

/// What transformers takes for sizes that config.json leaves out. 0: they have to be there, as
/// sizes of another model would be wrong; but those of wrapped texts are left out as a rule.
struct SizeDefaults {
  index_t heads = 0;
  index_t vocabulary = 0;
  index_t positions = 0;
};
/// Reads the sizes that all families have; `intermediate` names the field of the MLP's width.
void parse_sizes(const ConfigFields& fields, const std::string& intermediate,
                 const SizeDefaults& defaults, ModelConfig& config);
/// Throws Error naming the sizes unless every head gets the same number of channels.
void require_equal_heads(const ConfigFields& fields, const ModelConfig& config);
/// Reads a field; `fallback` is what transformers takes if it is absent.
void parse_activation(const ConfigFields& fields, const std::string& name,
                      const std::string& fallback, ModelConfig& config);

/// What transformers takes for fields that config.json leaves out, and what a family's plan can do.
struct DecoderDefaults {
  index_t kv_heads = 0;  ///< 0: as many as heads
  index_t head_dim = 0;  ///< 0: hidden/heads
  double norm_epsilon = 1e-6;
  bool tied_head = false;
  const char* activation_field = "hidden_act";
  const char* activation = "silu";
  double rope_theta = 10000.0;
  bool partial_rotation = false;  ///< the plan can leave channels of a head as they are
  bool local_rope = false;        ///< blocks with a window have a rope of their own
  SizeDefaults sizes = {};
};
/// Reads the fields that all decoders with rotary positions have.
void parse_decoder(const ConfigFields& fields, const DecoderDefaults& defaults,
                   ModelConfig& config);
/// Reads rope_theta and rope_scaling, or rope_parameters, for heads of config.head_dim channels.
void parse_rope(const ConfigFields& fields, const DecoderDefaults& defaults, ModelConfig& config);
/// Reads the window's width and, where config.json lists the blocks' types, which have it.
/// `width`: that of a configuration that does not say it.
void parse_windows(const ConfigFields& fields, ModelConfig& config, index_t width = 4096);
/// Reads the number of experts, and how many of them a token has. Absent fields have the values of
/// `fallback`.
void parse_router(const ConfigFields& fields, const RouterShape& fallback, ModelConfig& config);
/// Reads DeepSeek's router: by groups, with corrected sigmoids. Experts begin at block
/// first_k_dense_replace, or `first`.
void parse_grouped_router(const ConfigFields& fields, RouterShape fallback, index_t first,
                          ModelConfig& config);
/// Throws Error for any type of block but full attention.
void refuse_layer_types(const ConfigFields& fields);
/// Reads windows that have to be switched on, and then begin at some block.
void parse_late_windows(const ConfigFields& fields, ModelConfig& config);

/// True if the configuration ties the head to `embedding`, but `source` has another head.
[[nodiscard]] bool has_own_head(const ModelConfig& config, const TensorSource& source,
                                const std::string& embedding);

/// Returns the head [vocabulary × embedding width]: `embedding` where it is tied.
[[nodiscard]] TensorSpec head_of(const ModelConfig& config, const TensorSpec& embedding);

}  // namespace quip
