// The options of quantizing one linear layer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "quip/quant/code/quantized_linear.hpp"
#include "quip/quant/options/methods.hpp"

namespace quip {

/// Bundles of steps: baseline is OPTQ's (a minmax grid and nothing else), incoherence QuIP's
/// (rescale, transform, one grid per layer).
enum class Processing { baseline, incoherence };
/// The moment at which weights beyond the grid's ends are cut: before rounding (the authors'
/// program), or in the rounding itself, so that the columns still to come make up for the cut.
enum class Clamp { pre, feedback };

/// The order in which ldlq takes the columns: from the last (the authors' program), from the first,
/// or by descending diag(H).
enum class ColumnOrder { backward, forward, act };
/// The type in which scales of the minmax grid are stored, and what they are rounded to before
/// weights are. bf16: halves of the 8 significant bits that a bfloat16 has, so that both types hold
/// them.
enum class ScaleType { fp32, fp16, bf16 };
enum class Rounding { nearest, stochastic };
/// The moment at which the minmax grids of groups of columns are fitted: before rounding, to the
/// weights as they came, or when optq reaches a group, to its weights as they are by then.
enum class GroupFit { fixed, dynamic };

/// The unit after which ldlq with a trellis feeds back: tiles of 16 inputs, or inside the tile,
/// too, each step of the search.
enum class TrellisFeedback { tile, step };

[[nodiscard]] std::string to_string(Method method);
[[nodiscard]] std::string to_string(Clamp clamp);
[[nodiscard]] std::string to_string(GroupFit fit);

/// Returns the names of the methods with a trait: "ldlq-rg, greedy".
[[nodiscard]] std::string methods_that(bool (*have)(const MethodTraits& method));

struct LayerOptions {
  int bits = 2;
  Method method = Method::ldlq;
  std::optional<CodebookKind> codebook;  ///< none: trellis, where nothing else belongs to scalar
  trellis::Codebook trellis = trellis::Codebook::mul1;  ///< values of the trellis' states
  TrellisFeedback trellis_feedback = TrellisFeedback::tile;
  Processing processing = Processing::incoherence;
  // Steps that depart from the bundle which `processing` stands for.
  std::optional<bool> rescaling;
  std::optional<TransformKind> transform;
  std::optional<bool> output_scaling;  ///< none: of all that is transformed
  std::optional<GridKind> grid_kind;
  index_t group_size = 0;          ///< minmax grid: columns that share a step; 0: the whole row
  std::optional<GroupFit> groups;  ///< none: the method's default
  bool symmetric = false;          ///< minmax grid: zero in the middle
  std::optional<ScaleType> scale_type;  ///< minmax grid; none: fp16 with groups, else fp32
  std::optional<double> rho;            ///< grid half width over rms(W); none: searched per layer
  std::optional<bool> sharing;          ///< of what is made of one input; none: with a trellis
  Clamp clamp = Clamp::feedback;
  std::optional<ColumnOrder> order;  ///< ldlq; none: backward
  bool act_order = false;            ///< optq: columns by descending diag(H)
  Rounding rounding = Rounding::nearest;
  std::optional<int> passes;  ///< greedy passes; none: the method's default
  double damping = 0.01;      ///< α: λ = α·mean(diag H)
  std::uint64_t seed = 0;
  bool spectra = false;  ///< also decompose the Hessians, for the report; changes no result

  bool operator==(const LayerOptions&) const = default;

  // The functions below return the steps in force.
  [[nodiscard]] Feedback feedback() const { return traits_of(method).feedback; }
  /// True if the feedback is a matrix beside L.
  [[nodiscard]] bool has_feedback_of_its_own() const {
    return feedback() == Feedback::inverse || feedback() == Feedback::constrained;
  }
  /// Returns the number of greedy passes.
  [[nodiscard]] int effective_passes() const;
  /// Returns dynamic for optq, as its users expect, but where grids must be known first: by
  /// descending diag(H) a group's columns come one here and one there, and Clamp::pre cuts at the
  /// grids' ends.
  [[nodiscard]] GroupFit effective_groups() const;
  [[nodiscard]] bool has_trellis() const {
    return codebook ? *codebook == CodebookKind::trellis : suits_trellis();
  }
  /// Returns the type of the minmax grid's scales.
  [[nodiscard]] ScaleType scales() const {
    return scale_type.value_or(group_size > 0 ? ScaleType::fp16 : ScaleType::fp32);
  }
  [[nodiscard]] GridKind grid() const {
    return grid_kind.value_or(incoherence() ? GridKind::incoherent : GridKind::minmax);
  }
  /// True if layers that read the same input have V, D̃ and the factor in common.
  [[nodiscard]] bool shares_inputs() const { return sharing.value_or(has_trellis()); }
  /// True if the half width of the grid is searched for.
  [[nodiscard]] bool searches_rho() const {
    return !has_trellis() && grid() == GridKind::incoherent && !rho;
  }
  /// True if the layer has the diagonal rescaling D̃.
  [[nodiscard]] bool rescale() const { return rescaling.value_or(incoherence()); }
  [[nodiscard]] TransformKind effective_transform() const {
    if (has_trellis()) return TransformKind::hadamard_128;
    return transform.value_or(incoherence() ? TransformKind::hadamard : TransformKind::none);
  }
  /// True if rows of W are scaled, too, and D̃ is chosen beside that from several candidates.
  [[nodiscard]] bool scales_outputs() const {
    const bool transformed = effective_transform() != TransformKind::none;
    return has_trellis() || output_scaling.value_or(rescale() && transformed);
  }

 private:
  /// True if no option is given that has a meaning for scalar codes only.
  [[nodiscard]] bool suits_trellis() const;
  [[nodiscard]] bool incoherence() const { return processing == Processing::incoherence; }
};

/// Describes the layer that W [rows × cols] becomes, without seeds and elements. Its rows and
/// columns are padded to what the transform asks for.
[[nodiscard]] QuantizedLinear described(const LayerOptions& options, index_t rows, index_t cols);

/// Throws Error, naming both, for two options that have no meaning together, and for a number that
/// the others leave no meaning. Names are those of the command line.
void check_together(const LayerOptions& options);

}  // namespace quip
