// Configurations for the tests of config.json.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "quip/core/error.hpp"
#include "quip/model/config.hpp"

namespace quip::config_test {

using nlohmann::json;

inline json llama_like(const char* model_type) {
  return {{"model_type", model_type},     {"hidden_size", 64},        {"intermediate_size", 96},
          {"num_hidden_layers", 3},       {"num_attention_heads", 4}, {"vocab_size", 100},
          {"max_position_embeddings", 32}};
}

inline json opt() {
  return {{"model_type", "opt"},          {"hidden_size", 48},        {"ffn_dim", 96},
          {"num_hidden_layers", 2},       {"num_attention_heads", 4}, {"vocab_size", 100},
          {"max_position_embeddings", 32}};
}

inline ModelConfig parse(const json& document) {
  return parse_config(document.dump(), "m/config.json");
}

inline json with(json document, const json& changes) {
  document.update(changes);
  return document;
}

inline std::string rejection(const std::string& text) {
  try {
    (void)parse_config(text, "m/config.json");
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

}  // namespace quip::config_test
