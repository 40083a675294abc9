#include "quip/model/config.hpp"

#include <array>
#include <fstream>
#include <sstream>
#include <string_view>

#include "config_fields.hpp"

#include "quip/core/error.hpp"
#include "quip/io/json.hpp"

namespace quip {
namespace {

using nlohmann::json;

void parse_activation(const ConfigFields& fields, const std::string& name,
                      const std::string& fallback, ModelConfig& config) {
  const std::string text = fields.text_or(name, fallback);
  if (text == "relu") {
    config.activation = Activation::relu;
  } else if (text == "gelu") {
    config.activation = Activation::gelu;
  } else if (text == "gelu_new" || text == "gelu_pytorch_tanh") {
    config.activation = Activation::gelu_tanh;
  } else if (text == "silu" || text == "swish") {
    config.activation = Activation::silu;
  } else {
    fields.reject(
        name, "is \"{}\"; quip knows relu, gelu, gelu_new, gelu_pytorch_tanh, silu, swish", text);
  }
}

void parse_sizes(const ConfigFields& fields, const std::string& intermediate, ModelConfig& config) {
  config.hidden = fields.size("hidden_size");
  config.intermediate = fields.size(intermediate);
  config.blocks = fields.size("num_hidden_layers");
  config.heads = fields.size("num_attention_heads");
  config.vocabulary = fields.size("vocab_size");
  config.max_positions = fields.size("max_position_embeddings");
}

RopeScaling parse_llama3_scaling(const ConfigFields& rope) {
  RopeScaling scaling{.kind = RopeScaling::Kind::llama3,
                      .factor = rope.positive("factor"),
                      .low_freq_factor = rope.positive("low_freq_factor"),
                      .high_freq_factor = rope.positive("high_freq_factor"),
                      .original_max_position = rope.positive("original_max_position_embeddings")};
  if (scaling.high_freq_factor <= scaling.low_freq_factor) {
    rope.reject("high_freq_factor", "is {}, not above low_freq_factor ({})",
                scaling.high_freq_factor, scaling.low_freq_factor);
  }
  return scaling;
}

RopeScaling parse_scaling(const ConfigFields& rope) {
  // "type" is the older name of "rope_type".
  const std::string name = rope.has("rope_type") ? "rope_type" : "type";
  const std::string kind = rope.text_or(name, "default");
  if (kind == "default") return {};
  if (kind == "linear") {
    return {.kind = RopeScaling::Kind::linear, .factor = rope.positive("factor")};
  }
  if (kind == "llama3") return parse_llama3_scaling(rope);
  rope.reject(name, "is \"{}\"; quip knows default, linear, llama3", kind);
}

void require_full_rotation(const ConfigFields& fields) {
  if (fields.positive_or("partial_rotary_factor", 1.0) != 1.0) {
    fields.reject("partial_rotary_factor", "is not 1; quip rotates whole heads only");
  }
}

void parse_rope(const ConfigFields& fields, ModelConfig& config) {
  config.rope_theta = fields.positive_or("rope_theta", 10000.0);
  require_full_rotation(fields);
  // transformers 5 writes one "rope_parameters"; earlier ones "rope_theta" and "rope_scaling".
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    if (!fields.has(name)) continue;
    const ConfigFields rope = fields.object(name);
    for (const char* layer_type : {"full_attention", "sliding_attention"}) {
      if (rope.has(layer_type))
        rope.reject(layer_type, "is not supported: one rope for all blocks");
    }
    config.rope_theta = rope.positive_or("rope_theta", config.rope_theta);
    require_full_rotation(rope);
    config.rope_scaling = parse_scaling(rope);
  }
  if (config.head_dim % 2 != 0) {
    fields.reject(fields.has("head_dim") ? "head_dim" : "hidden_size",
                  "gives heads of {} channels; rotary embeddings need an even number",
                  config.head_dim);
  }
}

void parse_llama_family(const ConfigFields& fields, index_t absent_kv_heads, ModelConfig& config) {
  parse_sizes(fields, "intermediate_size", config);
  const bool kv_by_default = absent_kv_heads == 0 || fields.is_null("num_key_value_heads");
  config.kv_heads =
      fields.size_or("num_key_value_heads", kv_by_default ? config.heads : absent_kv_heads);
  if (config.heads % config.kv_heads != 0) {
    fields.reject("num_key_value_heads", "is {}, which does not divide num_attention_heads = {}",
                  config.kv_heads, config.heads);
  }
  if (!fields.has("head_dim") && config.hidden % config.heads != 0) {
    fields.reject("hidden_size", "is {}, not a multiple of num_attention_heads = {}", config.hidden,
                  config.heads);
  }
  config.head_dim = fields.size_or("head_dim", config.hidden / config.heads);
  config.embedding_dim = config.hidden;
  config.norm_epsilon = static_cast<float>(fields.positive_or("rms_norm_eps", 1e-6));
  config.tied_head = fields.flag_or("tie_word_embeddings", false);
  parse_activation(fields, "hidden_act", "silu", config);
  parse_rope(fields, config);
}

void parse_llama(const ConfigFields& fields, ModelConfig& config) {
  parse_llama_family(fields, 0, config);
  config.attention_bias = fields.flag_or("attention_bias", false);
  config.attention_output_bias = config.attention_bias;
  config.mlp_bias = fields.flag_or("mlp_bias", false);
}

void parse_mistral(const ConfigFields& fields, ModelConfig& config) {
  parse_llama_family(fields, 8, config);
  if (fields.is_null("sliding_window")) return;
  config.sliding_window = fields.size_or("sliding_window", 4096);
}

/// Which blocks have a sliding window, from transformers' per-block list.
index_t first_windowed(const ConfigFields& fields, const json& types, index_t blocks) {
  if (!types.is_array() || static_cast<index_t>(types.size()) != blocks) {
    fields.reject("layer_types", "does not list one type for each of the {} blocks", blocks);
  }
  index_t first = 0;
  while (first < blocks && types[static_cast<std::size_t>(first)] == "full_attention") ++first;
  for (index_t b = first; b < blocks; ++b) {
    if (types[static_cast<std::size_t>(b)] == "sliding_attention") continue;
    fields.reject("layer_types",
                  "has {} at block {}; quip knows full_attention blocks followed by "
                  "sliding_attention blocks",
                  shown(types[static_cast<std::size_t>(b)]), b);
  }
  return first;
}

void parse_qwen2(const ConfigFields& fields, ModelConfig& config) {
  parse_llama_family(fields, 32, config);
  config.attention_bias = true;  // q, k and v always, o never
  if (!fields.flag_or("use_sliding_window", false) || fields.is_null("sliding_window")) return;
  config.sliding_window = fields.size_or("sliding_window", 4096);
  const json* types = fields.find("layer_types");
  config.first_windowed_block = types == nullptr ? fields.count_or("max_window_layers", 28)
                                                 : first_windowed(fields, *types, config.blocks);
}

void parse_opt(const ConfigFields& fields, ModelConfig& config) {
  parse_sizes(fields, "ffn_dim", config);
  if (config.hidden % config.heads != 0) {
    fields.reject("hidden_size", "is {}, not a multiple of num_attention_heads = {}", config.hidden,
                  config.heads);
  }
  config.kv_heads = config.heads;
  config.head_dim = config.hidden / config.heads;
  config.norm_epsilon = 1e-5F;  // torch's default: OPT has no field for it
  config.tied_head = fields.flag_or("tie_word_embeddings", true);
  parse_activation(fields, "activation_function", "relu", config);
  config.embedding_dim = fields.size_or("word_embed_proj_dim", config.hidden);
  config.norm_before = fields.flag_or("do_layer_norm_before", true);
  config.final_norm = !fields.flag_or("_remove_final_layer_norm", false);
  config.norm_affine = fields.flag_or("layer_norm_elementwise_affine", true);
  config.bias = fields.flag_or("enable_bias", true);
}

struct ModelKind {
  std::string_view model_type;
  std::string_view architecture;
  void (*parse)(const ConfigFields& fields, ModelConfig& config);
};

constexpr std::array<ModelKind, 4> kModels = {{{"llama", "LlamaForCausalLM", parse_llama},
                                               {"mistral", "MistralForCausalLM", parse_mistral},
                                               {"qwen2", "Qwen2ForCausalLM", parse_qwen2},
                                               {"opt", "OPTForCausalLM", parse_opt}}};

std::string known(std::string_view ModelKind::*member) {
  std::string names;
  for (const ModelKind& model : kModels) {
    if (!names.empty()) names += ", ";
    names += model.*member;
  }
  return names;
}

const ModelKind& find_model(const ConfigFields& fields) {
  const std::string type = fields.text("model_type");
  for (const ModelKind& model : kModels) {
    if (model.model_type == type) return model;
  }
  fields.reject("model_type", "is \"{}\"; quip knows {}", type, known(&ModelKind::model_type));
}

/// The head decides what a checkpoint is for: only causal language models are quantized.
void require_architecture(const ConfigFields& fields, const ModelKind& model) {
  const json* listed = fields.find("architectures");
  if (listed == nullptr) return;
  if (!listed->is_array() || listed->empty() || listed->front() != model.architecture) {
    fields.reject("architectures", "is {}; quip knows {} for model_type \"{}\" (all: {})",
                  shown(*listed), model.architecture, model.model_type,
                  known(&ModelKind::architecture));
  }
}

}  // namespace

ModelConfig parse_config(const std::string& text, const std::string& origin) {
  const json document = parse_json(text, origin);
  const ConfigFields fields(document, origin);
  const ModelKind& model = find_model(fields);
  require_architecture(fields, model);
  if (fields.has("quantization_config")) {
    fields.reject("quantization_config",
                  "is there: the checkpoint is quantized already; "
                  "start from the original one");
  }
  ModelConfig config;
  config.model_type = model.model_type;
  config.architecture = model.architecture;
  config.text = text;
  model.parse(fields, config);
  return config;
}

ModelConfig read_config(const std::filesystem::path& directory) {
  const std::filesystem::path file = directory / "config.json";
  std::ifstream stream(file);
  if (!stream) fail("{}: cannot open; is this a Hugging Face model directory?", file.string());
  std::ostringstream text;
  text << stream.rdbuf();
  return parse_config(text.str(), file.string());
}

}  // namespace quip
