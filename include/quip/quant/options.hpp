// How one linear layer is quantized.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "quip/quant/quantized_linear.hpp"

namespace quip {

enum class Method { nearest, ldlq };
enum class Processing { baseline, incoherence };
/// Where weights beyond the grid's ends are cut: before rounding (the authors' program), or by
/// the rounding itself, so that the columns still to come make up for the cut.
enum class Clamp { pre, feedback };

[[nodiscard]] std::string to_string(Method method);
[[nodiscard]] std::string to_string(Processing processing);
[[nodiscard]] std::string to_string(Clamp clamp);
/// Throw Error listing the choices.
[[nodiscard]] Method parse_method(const std::string& text);
[[nodiscard]] Processing parse_processing(const std::string& text);
[[nodiscard]] Clamp parse_clamp(const std::string& text);

struct LayerOptions {
  int bits = 2;
  Method method = Method::ldlq;
  Processing processing = Processing::incoherence;
  TransformKind transform = TransformKind::kronecker;
  std::optional<double> rho;  ///< grid half width over rms(W); none: searched per layer
  Clamp clamp = Clamp::feedback;
  double damping = 0.01;  ///< α: λ = α·mean(diag H)
  std::uint64_t seed = 0;

  [[nodiscard]] GridKind grid() const {
    return processing == Processing::incoherence ? GridKind::incoherent : GridKind::minmax;
  }
  /// The diagonal rescaling D̃ belongs to incoherence processing.
  [[nodiscard]] bool rescale() const { return processing == Processing::incoherence; }
  /// The transform in force: the baseline has none.
  [[nodiscard]] TransformKind effective_transform() const {
    return processing == Processing::incoherence ? transform : TransformKind::none;
  }
};

}  // namespace quip
