#include "quip/model/rope.hpp"

#include <cmath>
#include <numbers>

#include "family_common.hpp"

namespace quip {
namespace {

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
  if (!rope.has(name) && rope.has("factor")) {
    rope.reject("factor", "is there, but no rope_type says how to stretch by it");
  }
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

/// Returns base^(−2i/d), the unscaled frequency of pair i.
float base_frequency(double theta, index_t pair, index_t head_dim) {
  const float exponent = static_cast<float>(2 * pair) / static_cast<float>(head_dim);
  return 1.0F / static_cast<float>(std::pow(theta, static_cast<double>(exponent)));
}

/// Stretches as Llama 3.1 does: short waves stay, long waves are divided by the factor, and between
/// the two bounds the frequency moves smoothly from one to the other. Reciprocals are multiplied,
/// not divided by, as torch does with a number over a tensor.
float llama3_frequency(const RopeScaling& scaling, float frequency) {
  const auto factor = static_cast<float>(scaling.factor);
  const auto low = static_cast<float>(scaling.low_freq_factor);
  const auto high = static_cast<float>(scaling.high_freq_factor);
  const auto context = static_cast<float>(scaling.original_max_position);
  const float wavelength = (1 / frequency) * static_cast<float>(2 * std::numbers::pi);
  if (wavelength < context / high) return frequency;
  if (wavelength > context / low) return frequency / factor;
  const float smooth = ((1 / wavelength) * context - low) / (high - low);
  return (1 - smooth) * frequency / factor + smooth * frequency;
}

float scaled(const RopeScaling& scaling, float frequency) {
  if (scaling.kind == RopeScaling::Kind::llama3) return llama3_frequency(scaling, frequency);
  return frequency / static_cast<float>(scaling.factor);  // 1 without scaling
}

}  // namespace

void parse_rope(const ConfigFields& fields, ModelConfig& config) {
  if (config.head_dim % 2 != 0) {
    fields.reject(fields.has("head_dim") ? "head_dim" : "hidden_size",
                  "gives heads of {} channels; rotary embeddings need an even number",
                  config.head_dim);
  }
  config.rope_theta = fields.positive_or("rope_theta", 10000.0);
  require_full_rotation(fields);
  // transformers 5 writes "rope_parameters", earlier versions "rope_scaling"; where both are there,
  // it takes the old one as a whole, unless that is empty.
  const nlohmann::json* scaling = fields.find("rope_scaling");
  const bool old = scaling != nullptr && !scaling->empty();
  const char* name = old ? "rope_scaling" : "rope_parameters";
  if (!fields.has(name)) return;
  const ConfigFields rope = fields.object(name);
  for (const char* layer_type : {"full_attention", "sliding_attention"}) {
    if (rope.has(layer_type)) rope.reject(layer_type, "is not supported: one rope for all blocks");
  }
  config.rope_theta = rope.positive_or("rope_theta", config.rope_theta);
  require_full_rotation(rope);
  config.rope_scaling = parse_scaling(rope);
}

std::vector<float> rope_frequencies(const ModelConfig& config) {
  std::vector<float> result;
  for (index_t pair = 0; pair < config.head_dim / 2; ++pair) {
    const float frequency = base_frequency(config.rope_theta, pair, config.head_dim);
    result.push_back(scaled(config.rope_scaling, frequency));
  }
  return result;
}

RopeTables rope_tables(std::span<const float> frequencies, index_t length) {
  const auto pairs = static_cast<index_t>(frequencies.size());
  RopeTables tables{Matrix<float>(length, pairs), Matrix<float>(length, pairs)};
  for (index_t t = 0; t < length; ++t) {
    for (index_t i = 0; i < pairs; ++i) {
      // The angle is an fp32 number by definition; its cosine is then rounded once, on every
      // platform alike.
      const float angle = static_cast<float>(t) * frequencies[at(i)];
      tables.cosine(t, i) = static_cast<float>(std::cos(static_cast<double>(angle)));
      tables.sine(t, i) = static_cast<float>(std::sin(static_cast<double>(angle)));
    }
  }
  return tables;
}

}  // namespace quip
