#include "family_common.hpp"

#include <algorithm>
#include <cmath>

#include "quip/core/error.hpp"

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

void require_length(const ModelConfig& config, index_t length) {
  if (length <= config.max_positions) return;
  fail(
      "sequences of {} tokens are too long: config.json has max_position_embeddings = {}; make "
      "a token set of shorter sequences",
      length, config.max_positions);
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

index_t Decoder::tap_width(int tap) const {
  if (tap == 1) return query_width();
  return tap == 3 ? config_.intermediate : config_.hidden;
}

TensorSpec Decoder::head() const {
  if (config_.tied_head) return embedding();
  return {head_name, {config_.vocabulary, config_.embedding_dim}};
}

index_t Decoder::scratch_width(int stage) const {
  return stage == 1 ? query_width() + 2 * key_width() : 0;
}

Decoder::Heads Decoder::project(const std::string& at, Backend& backend, const WeightSet& weights,
                                ConstTensorView input) const {
  const index_t length = input.rows;
  Heads heads{backend.allocate(length, query_width()), backend.allocate(length, key_width()),
              backend.allocate(length, key_width())};
  apply_linear(backend, weights, at + "q_proj", input, heads.q.view());
  apply_linear(backend, weights, at + "k_proj", input, heads.k.view());
  apply_linear(backend, weights, at + "v_proj", input, heads.v.view());
  return heads;
}

void Decoder::attention(index_t block, Backend& backend, const Heads& heads,
                        TensorView output) const {
  const double scale = 1.0 / std::sqrt(static_cast<double>(config_.head_dim));
  const AttentionShape shape{.heads = config_.heads,
                             .kv_heads = config_.kv_heads,
                             .head_dim = config_.head_dim,
                             .scale = static_cast<float>(scale),
                             .window = config_.window(block)};
  backend.attention(heads.q.cview(), heads.k.cview(), heads.v.cview(), shape, output);
}

}  // namespace quip
