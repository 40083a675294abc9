#include "quip/model/rope.hpp"

#include <cmath>
#include <numbers>

namespace quip {
namespace {

/// base^(−2i/d), the unscaled frequency of pair i.
float base_frequency(double theta, index_t pair, index_t head_dim) {
  const float exponent = static_cast<float>(2 * pair) / static_cast<float>(head_dim);
  return 1.0F / static_cast<float>(std::pow(theta, static_cast<double>(exponent)));
}

/// Llama 3.1: short waves stay, long waves are divided by the factor, and between the two
/// bounds the frequency moves smoothly from one to the other. Reciprocals are multiplied, not
/// divided by, because that is what torch does with a number over a tensor.
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
  switch (scaling.kind) {
    case RopeScaling::Kind::none:
      return frequency;
    case RopeScaling::Kind::linear:
      return frequency / static_cast<float>(scaling.factor);
    case RopeScaling::Kind::llama3:
      return llama3_frequency(scaling, frequency);
  }
  return frequency;
}

}  // namespace

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
      // The angle is an fp32 number by definition; its cosine is then rounded once, on
      // every platform alike.
      const float angle = static_cast<float>(t) * frequencies[static_cast<std::size_t>(i)];
      tables.cosine(t, i) = static_cast<float>(std::cos(static_cast<double>(angle)));
      tables.sine(t, i) = static_cast<float>(std::sin(static_cast<double>(angle)));
    }
  }
  return tables;
}

}  // namespace quip
