#include "quip/model/config.hpp"

#include <algorithm>
#include <array>
#include <string_view>

#include "family_common.hpp"
#include "io/files.hpp"
#include "io/incomplete_download.hpp"

#include "quip/core/error.hpp"
#include "quip/io/json.hpp"
#include "quip/model/hub_cache.hpp"

namespace quip {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

/// The table of models, family by family.
auto model_table() {
  return std::array{llama_models(),        qwen3_models(),       gemma_models(),
                    phi3_models(),         olmo2_models(),       granite_models(),
                    mixtral_models(),      deepseek_v3_models(), glm4_moe_models(),
                    ernie4_5_moe_models(), minimax_m2_models(),  gpt_oss_models(),
                    llama4_models(),       opt_models()};
}

/// Families that have a kind of block which quip lacks.
struct UnknownBlocks {
  std::string_view model_type;
  std::string_view blocks;
};
constexpr std::array unknown_blocks = {UnknownBlocks{"deepseek_v32", "sparse attention"},
                                       UnknownBlocks{"glm_moe_dsa", "sparse attention"},
                                       UnknownBlocks{"qwen3_next", "linear attention"},
                                       UnknownBlocks{"qwen3_5_text", "linear attention"},
                                       UnknownBlocks{"qwen3_5_moe_text", "linear attention"},
                                       UnknownBlocks{"kimi_linear", "linear attention"},
                                       UnknownBlocks{"minimax", "linear attention"},
                                       UnknownBlocks{"minimax_m1", "linear attention"},
                                       UnknownBlocks{"rwkv", "linear attention"},
                                       UnknownBlocks{"recurrent_gemma", "recurrent blocks"},
                                       UnknownBlocks{"nemotron_h", "state-space blocks"},
                                       UnknownBlocks{"jamba", "state-space blocks"},
                                       UnknownBlocks{"bamba", "state-space blocks"},
                                       UnknownBlocks{"falcon_h1", "state-space blocks"},
                                       UnknownBlocks{"falcon_mamba", "state-space blocks"},
                                       UnknownBlocks{"granitemoehybrid", "state-space blocks"},
                                       UnknownBlocks{"mamba", "state-space blocks"},
                                       UnknownBlocks{"mamba2", "state-space blocks"},
                                       UnknownBlocks{"zamba", "state-space blocks"},
                                       UnknownBlocks{"zamba2", "state-space blocks"},
                                       UnknownBlocks{"lfm2", "convolutions"}};

std::string known(std::string_view ModelRow::*member) {
  std::string names;
  for (const auto& models : model_table()) {
    for (const ModelRow& model : models) {
      if (!names.empty()) names += ", ";
      names += model.*member;
    }
  }
  return names;
}

/// Returns the row of a configuration. Throws Error if there is none.
const ModelRow& row_of(const ConfigFields& fields) {
  const std::string type = fields.text("model_type");
  const ModelRow* model = find_model(type);
  if (model != nullptr) return *model;
  const auto* lacking = std::ranges::find(unknown_blocks, type, &UnknownBlocks::model_type);
  const bool named = lacking != unknown_blocks.end();
  fields.reject("model_type", "is \"{}\"; quip knows {}{}", type, known(&ModelRow::model_type),
                named ? fmt::format("; it does not compute {}", lacking->blocks) : "");
}

constexpr const char* text_part = "text_config";

/// Gives the text's part of a configuration what stands beside it and is meant for all parts.
void complete_text(json& document) {
  json& text = document[text_part];
  if (!text.is_object()) return;
  for (const char* name : {"tie_word_embeddings", "quantization_config"}) {
    if (!text.contains(name) && document.contains(name)) text[name] = document[name];
  }
}

/// Throws Error unless the head is that of a causal language model: only those are quantized.
void require_architecture(const ConfigFields& fields, const ModelRow& model) {
  const json* listed = fields.find("architectures");
  if (listed == nullptr) return;
  if (!listed->is_array() || listed->empty() || listed->front() != model.architecture) {
    fields.reject("architectures", "is {}; quip knows {} for model_type \"{}\" (all: {})",
                  shown(*listed), model.architecture, model.model_type,
                  known(&ModelRow::architecture));
  }
}

/// Reads how weights are stored, where config.json says that they are quantized.
WeightFormat parse_format(const ConfigFields& fields) {
  constexpr const char* name = "quantization_config";
  if (!fields.has(name)) return {};
  const ConfigFields stored = fields.object(name);
  const std::string method = stored.text_or("quant_method", "");
  if (method == "mxfp4") return {WeightFormat::Kind::mxfp4};
  const json* block = stored.find("weight_block_size");
  if (method != "fp8" || block == nullptr) {
    fields.reject(name,
                  "is {}: the checkpoint is quantized already; start from the original one (quip "
                  "reads quant_method fp8 with a weight_block_size, and mxfp4)",
                  shown(*fields.find(name)));
  }
  if (stored.text_or("fmt", "") != "float8_e4m3fn") stored.require_value("fmt", "e4m3");
  const auto size = [&](std::size_t i) { return natural((*block)[i]).value_or(0); };
  if (!block->is_array() || block->size() != 2 || size(0) < 1 || size(1) < 1) {
    stored.reject("weight_block_size", "is {}, not rows and columns of a block", shown(*block));
  }
  return {WeightFormat::Kind::fp8, size(0), size(1)};
}

void require_model_directory(const fs::path& path) {
  const std::string name = path.string();
  if (!fs::exists(path)) {
    if (!is_hub_name(name)) fail("{}: no such file or directory", name);
    fail("{}: no such directory, nor is it in {}; to get the model of that name: hf download {}",
         name, hub_cache().string(), name);
  }
  if (fs::exists(path / "adapter_config.json")) {
    fail(
        "{}: adapter_config.json makes it an adapter (LoRA, say), not a model; merge it into its "
        "base model (peft's merge_and_unload) and save that",
        name);
  }
  if (!fs::exists(path / "config.json")) {
    fail("{}: config.json {}; {}", name, why_absent(path / "config.json"), what_is_there(path));
  }
}

}  // namespace

const ModelRow* find_model(std::string_view model_type) {
  for (const auto& models : model_table()) {
    const auto found = std::ranges::find(models, model_type, &ModelRow::model_type);
    if (found != models.end()) return &*found;
  }
  return nullptr;
}

ModelConfig parse_config(const std::string& text, const std::string& origin) {
  json document = parse_json(text, origin);
  const ConfigFields whole(document, origin);
  const bool wrapped = find_model(whole.text("model_type")) == nullptr && whole.has(text_part);
  if (wrapped) complete_text(document);
  const ConfigFields fields = wrapped ? whole.object(text_part) : whole;
  const ModelRow* model = &row_of(fields);
  if (!wrapped) require_architecture(fields, *model);
  ModelConfig config;
  config.model_type = model->model_type;
  config.architecture = model->architecture;
  config.text = text;
  config.format = parse_format(fields);
  config.wrapped = wrapped;
  config.custom_code = whole.has("auto_map");
  model->parse(fields, config);
  return config;
}

ModelConfig read_config(const fs::path& path) {
  const bool file = fs::is_regular_file(path);
  if (!file) require_model_directory(path);
  const fs::path config = file ? path : path / "config.json";
  return parse_config(read_text(config), config.string());
}

}  // namespace quip
