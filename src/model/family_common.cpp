#include "family_common.hpp"

#include <algorithm>
#include <initializer_list>

#include "quip/io/json.hpp"

namespace quip {
void parse_sizes(const ConfigFields& fields, const std::string& intermediate,
                 const SizeDefaults& defaults, ModelConfig& config) {
  const auto size = [&](const char* name, index_t fallback) {
    return fallback > 0 ? fields.size_or(name, fallback) : fields.size(name);
  };
  config.hidden = fields.size("hidden_size");
  config.intermediate = fields.size(intermediate);
  config.blocks = fields.size("num_hidden_layers");
  config.heads = size("num_attention_heads", defaults.heads);
  config.vocabulary = size("vocab_size", defaults.vocabulary);
  config.max_positions = size("max_position_embeddings", defaults.positions);
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

void parse_decoder(const ConfigFields& fields, const DecoderDefaults& defaults,
                   ModelConfig& config) {
  parse_sizes(fields, "intermediate_size", defaults.sizes, config);
  const bool as_heads = defaults.kv_heads == 0 || fields.is_null("num_key_value_heads");
  config.kv_heads =
      fields.size_or("num_key_value_heads", as_heads ? config.heads : defaults.kv_heads);
  if (config.heads % config.kv_heads != 0) {
    fields.reject("num_key_value_heads", "is {}, which does not divide num_attention_heads = {}",
                  config.kv_heads, config.heads);
  }
  const bool divided = !fields.has("head_dim") && defaults.head_dim == 0;
  if (divided) require_equal_heads(fields, config);
  config.head_dim =
      divided ? config.hidden / config.heads : fields.size_or("head_dim", defaults.head_dim);
  config.embedding_dim = config.hidden;
  config.norm_epsilon =
      static_cast<float>(fields.positive_or("rms_norm_eps", defaults.norm_epsilon));
  config.tied_head = fields.flag_or("tie_word_embeddings", defaults.tied_head);
  parse_activation(fields, defaults.activation_field, defaults.activation, config);
  parse_rope(fields, defaults, config);
}

void parse_windows(const ConfigFields& fields, ModelConfig& config, index_t width) {
  if (fields.is_null("sliding_window")) return;
  config.sliding_window = fields.size_or("sliding_window", width);
  const nlohmann::json* types = fields.find("layer_types");
  if (types == nullptr) return;
  if (!types->is_array() || static_cast<index_t>(types->size()) != config.blocks) {
    fields.reject("layer_types", "does not list one type for each of the {} blocks", config.blocks);
  }
  for (const nlohmann::json& type : *types) {
    if (type != "full_attention" && type != "sliding_attention") {
      fields.reject("layer_types", "has {}; quip knows full_attention, sliding_attention",
                    shown(type));
    }
    config.windowed.push_back(type == "sliding_attention");
  }
}

void parse_router(const ConfigFields& fields, const RouterShape& fallback, ModelConfig& config) {
  const auto known = [&](std::initializer_list<const char*> names) {
    const auto* found = std::ranges::find_if(names, [&](auto* name) { return fields.has(name); });
    return found != names.end() ? *found : *names.begin();
  };
  const char* chosen = known({"num_experts_per_tok", "moe_k"});
  config.router = fallback;
  config.router.experts = fields.size_or(
      known({"num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"}),
      fallback.experts);
  config.router.chosen = fields.size_or(chosen, fallback.chosen);
  if (config.router.chosen > config.router.experts) {
    fields.reject(chosen, "is {}, and there are {} experts", config.router.chosen,
                  config.router.experts);
  }
}

void parse_grouped_router(const ConfigFields& fields, RouterShape fallback, index_t first,
                          ModelConfig& config) {
  fields.require_value("scoring_func", "sigmoid");
  fields.require_value("topk_method", "noaux_tc");
  fallback.scores = RouterScores::sigmoid;
  parse_router(fields, fallback, config);
  RouterShape& router = config.router;
  router.groups = fields.size_or("n_group", fallback.groups);
  router.chosen_groups = fields.size_or("topk_group", fallback.chosen_groups);
  router.renormalised = fields.flag_or("norm_topk_prob", true);
  router.least_sum = 1e-20F;
  router.factor = static_cast<float>(fields.positive_or("routed_scaling_factor", fallback.factor));
  const index_t in_group = router.experts / router.groups;
  if (in_group * router.groups != router.experts || (router.groups > 1 && in_group < 2)) {
    fields.reject("n_group", "is {}: {} experts make no groups of equal size, of two at least",
                  router.groups, router.experts);
  }
  if (router.chosen_groups > router.groups || router.chosen > router.chosen_groups * in_group) {
    fields.reject("topk_group", "is {} of {} groups; each token has {} of {} experts",
                  router.chosen_groups, router.groups, router.chosen, router.experts);
  }
  config.shared_intermediate = fields.count_or("n_shared_experts", 1) * config.expert_intermediate;
  first = fields.count_or("first_k_dense_replace", first);
  config.dense.assign(at(std::min(first, config.blocks)), true);
  for (index_t b = first; b < config.blocks; ++b) config.dense.push_back(false);
}

void refuse_layer_types(const ConfigFields& fields) {
  const nlohmann::json* types = fields.find("layer_types");
  if (types == nullptr) return;
  for (const nlohmann::json& type : *types) {
    if (type == "full_attention") continue;
    fields.reject("layer_types", "has {}; quip knows full_attention in this family", shown(type));
  }
}

void parse_late_windows(const ConfigFields& fields, ModelConfig& config) {
  if (!fields.flag_or("use_sliding_window", false)) return;
  parse_windows(fields, config);
  if (!config.windowed.empty()) return;
  const index_t first = std::min(config.blocks, fields.count_or("max_window_layers", 28));
  config.windowed.assign(at(first), false);
}

bool has_own_head(const ModelConfig& config, const TensorSource& source,
                  const std::string& embedding) {
  constexpr index_t piece = index_t{1} << 20;
  if (!config.tied_head || !source.contains(embedding) || !source.contains(config.head)) {
    return false;
  }
  const TensorInfo& head = source.info(config.head);
  const TensorInfo& table = source.info(embedding);
  if (head.dtype != table.dtype || head.shape != table.shape) return true;
  std::vector<std::byte> ours(at(std::min(piece, head.bytes())));
  std::vector<std::byte> theirs(ours.size());
  for (index_t first = 0; first < head.bytes(); first += piece) {
    const std::size_t count = at(std::min(piece, head.bytes() - first));
    source.read(config.head, first, std::span(ours).first(count));
    source.read(embedding, first, std::span(theirs).first(count));
    if (!std::equal(ours.begin(), ours.begin() + std::ssize(ours), theirs.begin())) return true;
  }
  return false;
}

TensorSpec head_of(const ModelConfig& config, const TensorSpec& embedding) {
  if (config.tied_head) return embedding;
  return {config.head, {config.vocabulary, config.embedding_dim}};
}

}  // namespace quip
