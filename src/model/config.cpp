#include "quip/model/config.hpp"

#include <algorithm>
#include <array>
#include <string_view>

#include "family_common.hpp"
#include "io/files.hpp"
#include "io/incomplete_download.hpp"

#include "quip/core/error.hpp"
#include "quip/core/name_pattern.hpp"
#include "quip/io/json.hpp"

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

void require_model_directory(const fs::path& path) {
  const std::string name = path.string();
  if (!fs::exists(path)) {
    // OWNER/NAME, as the Hugging Face Hub calls its repositories.
    if (!NamePattern(R"(^[\w-][\w.-]*/[\w.-]+$)", "--model").matches(name)) {
      fail("{}: no such file or directory", name);
    }
    fail("{}: no such directory; to get the model of that name: hf download {} --local-dir {}",
         name, name, path.filename().string());
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
  const json document = parse_json(text, origin);
  const ConfigFields fields(document, origin);
  const std::string type = fields.text("model_type");
  const ModelRow* model = find_model(type);
  if (model == nullptr) {
    fields.reject("model_type", "is \"{}\"; quip knows {}", type, known(&ModelRow::model_type));
  }
  require_architecture(fields, *model);
  if (fields.has("quantization_config")) {
    fields.reject("quantization_config",
                  "is there: the checkpoint is quantized already; start from the original one");
  }
  ModelConfig config;
  config.model_type = model->model_type;
  config.architecture = model->architecture;
  config.text = text;
  config.custom_code = fields.has("auto_map");
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
