#include "quip/model/rope.hpp"

#include <algorithm>
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

/// Reads YaRN's fields. A context that a model was trained with stands beside the others in some
/// configurations (Phi), and counts first.
RopeScaling parse_yarn_scaling(const ConfigFields& fields, const ConfigFields& rope,
                               const ModelConfig& config) {
  const auto longest = static_cast<double>(config.max_positions);
  RopeScaling scaling{.kind = RopeScaling::Kind::yarn};
  const ConfigFields& origin = fields.has("original_max_position_embeddings") ? fields : rope;
  scaling.original_max_position = origin.positive_or("original_max_position_embeddings", longest);
  scaling.factor = rope.positive_or("factor", longest / scaling.original_max_position);
  scaling.beta_fast = rope.positive_or("beta_fast", 32.0);
  scaling.beta_slow = rope.positive_or("beta_slow", 1.0);
  scaling.truncate = rope.flag_or("truncate", true);
  const auto magnitude = [&](double weight) {
    return scaling.factor <= 1 ? 1.0 : 0.1 * weight * std::log(scaling.factor) + 1.0;
  };
  // DeepSeek writes 0 for none.
  if (rope.has("mscale_all_dim") && *rope.find("mscale_all_dim") != 0) {
    scaling.score_factor = magnitude(rope.positive("mscale_all_dim"));
  }
  const bool of_two = rope.has("mscale") && rope.has("mscale_all_dim");
  scaling.attention_factor =
      rope.positive_or("attention_factor", of_two ? magnitude(rope.positive("mscale")) /
                                                        magnitude(rope.positive("mscale_all_dim"))
                                                  : magnitude(1.0));
  return scaling;
}

RopeScaling parse_scaling(const ConfigFields& fields, const ConfigFields& rope,
                          const ModelConfig& config) {
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
  if (kind == "yarn") return parse_yarn_scaling(fields, rope, config);
  rope.reject(name, "is \"{}\"; quip knows default, linear, llama3, yarn", kind);
}

constexpr const char* partial_name = "partial_rotary_factor";

void parse_partial(const ConfigFields& fields, const DecoderDefaults& defaults,
                   const ModelConfig& config, RopeConfig& rope) {
  rope.partial = fields.positive_or(partial_name, rope.partial);
  if (rope.partial == 1.0) return;
  if (!defaults.partial_rotation) {
    fields.reject(partial_name, "is not 1; quip rotates whole heads of a {}", config.model_type);
  }
  const auto channels = static_cast<index_t>(static_cast<double>(config.head_dim) * rope.partial);
  if (rope.partial > 1 || channels % 2 != 0 || channels == 0) {
    fields.reject(partial_name, "is {}, which turns {} channels of a head of {}; pairs turn",
                  rope.partial, channels, config.head_dim);
  }
}

/// Reads the fields of one rope. `fields` are those of the whole configuration.
void parse_one_rope(const ConfigFields& fields, const ConfigFields& rope,
                    const DecoderDefaults& defaults, const ModelConfig& config, RopeConfig& out) {
  out.theta = rope.positive_or("rope_theta", out.theta);
  parse_partial(rope, defaults, config, out);
  out.scaling = parse_scaling(fields, rope, config);
}

constexpr const char* of_full = "full_attention";
constexpr const char* of_windows = "sliding_attention";

/// Reads the ropes of a model that has two: rope_parameters by type of attention, or, in older
/// configurations, rope_local_base_freq for blocks with a window and a rope_scaling for the others.
void parse_two_ropes(const ConfigFields& fields, const DecoderDefaults& defaults,
                     ModelConfig& config) {
  RopeConfig& local = config.local_rope.emplace();
  local.theta = fields.positive_or("rope_local_base_freq", local.theta);
  if (fields.has("rope_parameters")) {
    const ConfigFields both = fields.object("rope_parameters");
    for (const char* flat : {"rope_type", "rope_theta", "factor"}) {
      if (both.has(flat)) both.reject(flat, "is there; expected {} and {}", of_full, of_windows);
    }
    const auto read = [&](const char* name, RopeConfig& rope) {
      if (both.has(name)) parse_one_rope(fields, both.object(name), defaults, config, rope);
    };
    read(of_full, config.rope);
    read(of_windows, local);
  }
  const nlohmann::json* scaling = fields.find("rope_scaling");
  if (scaling == nullptr || scaling->empty()) return;
  parse_one_rope(fields, fields.object("rope_scaling"), defaults, config, config.rope);
}

/// Returns base^(2i/d), the positions per radian of pair i without stretching.
float base_period(double theta, index_t pair, index_t channels) {
  const float exponent = static_cast<float>(2 * pair) / static_cast<float>(channels);
  return static_cast<float>(std::pow(theta, static_cast<double>(exponent)));
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

/// Returns the pair, as a real number, that turns `rotations` times in the original context.
double pair_of_rotations(const RopeConfig& rope, double rotations, index_t channels) {
  return static_cast<double>(channels) *
         std::log(rope.scaling.original_max_position / (rotations * 2 * std::numbers::pi)) /
         (2 * std::log(rope.theta));
}

/// Stretches as YaRN does: pairs that turn often stay, those that hardly turn are divided by the
/// factor, and between the two the share of the latter grows evenly with the pair's number.
float yarn_frequency(const RopeConfig& rope, index_t pair, index_t channels) {
  const RopeScaling& scaling = rope.scaling;
  double low = pair_of_rotations(rope, scaling.beta_fast, channels);
  double high = pair_of_rotations(rope, scaling.beta_slow, channels);
  if (scaling.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(channels - 1));
  if (low == high) high += 0.001;  // transformers' guard against a division by zero
  const float ramp =
      (static_cast<float>(pair) - static_cast<float>(low)) / static_cast<float>(high - low);
  const float kept = 1.0F - std::clamp(ramp, 0.0F, 1.0F);
  const float period = base_period(rope.theta, pair, channels);
  const float stretched = 1.0F / (static_cast<float>(scaling.factor) * period);
  return stretched * (1.0F - kept) + 1.0F / period * kept;
}

float frequency_of(const RopeConfig& rope, index_t pair, index_t channels) {
  if (rope.scaling.kind == RopeScaling::Kind::yarn) return yarn_frequency(rope, pair, channels);
  const float frequency = 1.0F / base_period(rope.theta, pair, channels);
  if (rope.scaling.kind == RopeScaling::Kind::llama3) {
    return llama3_frequency(rope.scaling, frequency);
  }
  return frequency / static_cast<float>(rope.scaling.factor);  // 1 without scaling
}

}  // namespace

void parse_rope(const ConfigFields& fields, const DecoderDefaults& defaults, ModelConfig& config) {
  if (config.head_dim % 2 != 0) {
    fields.reject(fields.has("head_dim") ? "head_dim" : "hidden_size",
                  "gives heads of {} channels; rotary embeddings need an even number",
                  config.head_dim);
  }
  config.rope.theta = fields.positive_or("rope_theta", defaults.rope_theta);
  parse_partial(fields, defaults, config, config.rope);
  if (defaults.local_rope) return parse_two_ropes(fields, defaults, config);
  // transformers 5 writes "rope_parameters", earlier versions "rope_scaling"; where both are there,
  // it takes the old one as a whole, unless that is empty.
  const nlohmann::json* scaling = fields.find("rope_scaling");
  const bool old = scaling != nullptr && !scaling->empty();
  const char* name = old ? "rope_scaling" : "rope_parameters";
  if (!fields.has(name)) return;
  const ConfigFields rope = fields.object(name);
  for (const char* layer_type : {of_full, of_windows}) {
    if (rope.has(layer_type)) {
      rope.reject(layer_type, "is not supported: one rope for all blocks of a {}",
                  config.model_type);
    }
  }
  parse_one_rope(fields, rope, defaults, config, config.rope);
}

std::vector<float> rope_frequencies(const RopeConfig& rope, index_t head_dim) {
  const auto channels = static_cast<index_t>(static_cast<double>(head_dim) * rope.partial);
  std::vector<float> result;
  for (index_t pair = 0; pair < channels / 2; ++pair) {
    result.push_back(frequency_of(rope, pair, channels));
  }
  return result;
}

RopeTables rope_tables(std::span<const float> frequencies, index_t length, float magnitude,
                       const Temperature& temperature) {
  const auto pairs = static_cast<index_t>(frequencies.size());
  RopeTables tables{Matrix<float>(length, pairs), Matrix<float>(length, pairs)};
  for (index_t t = 0; t < length; ++t) {
    const float steps = std::floor(static_cast<float>(t + 1) / temperature.step);
    const float factor = magnitude * (1.0F + temperature.weight * std::log1p(steps));
    for (index_t i = 0; i < pairs; ++i) {
      // The angle is an fp32 number by definition; its cosine is then rounded once, on every
      // platform alike.
      const float angle = static_cast<float>(t) * frequencies[at(i)];
      tables.cosine(t, i) = factor * static_cast<float>(std::cos(static_cast<double>(angle)));
      tables.sine(t, i) = factor * static_cast<float>(std::sin(static_cast<double>(angle)));
    }
  }
  return tables;
}

}  // namespace quip
