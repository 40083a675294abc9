#include "family_common.hpp"

#include <algorithm>

namespace quip {
namespace {

constexpr const char* head_name = "lm_head.weight";

}  // namespace

void parse_sizes(const ConfigFields& fields, const std::string& intermediate, ModelConfig& config) {
  config.hidden = fields.size("hidden_size");
  config.intermediate = fields.size(intermediate);
  config.blocks = fields.size("num_hidden_layers");
  config.heads = fields.size("num_attention_heads");
  config.vocabulary = fields.size("vocab_size");
  config.max_positions = fields.size("max_position_embeddings");
}

void require_equal_heads(const ConfigFields& fields, const ModelConfig& config) {
  if (config.hidden % config.heads == 0) return;
  fields.reject("hidden_size", "is {}, not a multiple of num_attention_heads = {}", config.hidden,
                config.heads);
}

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

bool has_own_head(const ModelConfig& config, const TensorSource& source,
                  const std::string& embedding) {
  constexpr index_t piece = index_t{1} << 20;
  if (!config.tied_head || !source.contains(embedding) || !source.contains(head_name)) return false;
  const TensorInfo& head = source.info(head_name);
  const TensorInfo& table = source.info(embedding);
  if (head.dtype != table.dtype || head.shape != table.shape) return true;
  std::vector<std::byte> ours(at(std::min(piece, head.bytes())));
  std::vector<std::byte> theirs(ours.size());
  for (index_t first = 0; first < head.bytes(); first += piece) {
    const std::size_t count = at(std::min(piece, head.bytes() - first));
    source.read(head_name, first, std::span(ours).first(count));
    source.read(embedding, first, std::span(theirs).first(count));
    if (!std::equal(ours.begin(), ours.begin() + std::ssize(ours), theirs.begin())) return true;
  }
  return false;
}

TensorSpec head_of(const ModelConfig& config, const TensorSpec& embedding) {
  if (config.tied_head) return embedding;
  return {head_name, {config.vocabulary, config.embedding_dim}};
}

}  // namespace quip
