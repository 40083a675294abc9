// The options that go together. One list for the command line, configuration files and --override.
#include "quip/core/error.hpp"
#include "quip/quant/options/option_table.hpp"
#include "quip/quant/trellis/feedback.hpp"

namespace quip {
namespace {

constexpr index_t smallest_group = 8;
constexpr index_t largest_group = index_t{1} << 24;
constexpr int most_passes = 1000;

void check_passes(const LayerOptions& options) {
  const int fewest = traits_of(options.method).passes == Passes::always ? 1 : 0;
  const int passes = options.passes.value_or(fewest);
  const std::string method = to_string(options.method);
  if (passes < fewest || passes > most_passes) {
    fail("--passes {}: must be {} to {} for --method {}", passes, fewest, most_passes, method);
  }
  if (options.rounding == Rounding::stochastic && options.effective_passes() > 0) {
    fail(
        "--rounding stochastic: greedy passes would undo it; use --passes 0 or leave out --method "
        "{}",
        method);
  }
}

void check_groups(const LayerOptions& options) {
  const index_t size = options.group_size;
  if (size != 0 && (size < smallest_group || size > largest_group)) {
    fail("--group-size {}: must be {} to {}", size, smallest_group, largest_group);
  }
  if (!options.groups) return;
  if (size == 0) {
    fail("--groups {}: there are none without --group-size; give that or leave out --groups",
         to_string(*options.groups));
  }
  if (options.groups != GroupFit::dynamic) return;
  if (options.feedback() != Feedback::inverse) {
    fail("--groups dynamic belongs to --method {} and does not go with --method {}",
         methods_that([](auto& method) { return method.feedback == Feedback::inverse; }),
         to_string(options.method));
  }
  if (options.act_order) {
    fail(
        "--groups dynamic does not go with --act-order, which takes a group's columns one here and "
        "one there: use --groups static or leave out --act-order");
  }
  if (options.clamp == Clamp::pre) {
    fail(
        "--groups dynamic does not go with --clamp pre, which cuts weights at grids that are known "
        "before: use --groups static or --clamp feedback");
  }
}

void check_codebook(const LayerOptions& options) {
  if (!options.has_trellis()) {
    if (!is_scalar_width(options.bits)) {
      fail("--bits {}: must be 2, 3, 4 or 8; --codebook trellis takes 1 to 8", options.bits);
    }
    return;
  }
  if (!traits_of(options.method).units) {
    fail("--codebook trellis goes with --method {} and does not go with --method {}",
         methods_that([](auto& method) { return method.units; }), to_string(options.method));
  }
  if (options.trellis_feedback == TrellisFeedback::step &&
      options.bits > trellis::max_feedback_bits) {
    fail("--trellis-feedback step takes 1 to {} bits and does not go with --bits {}",
         trellis::max_feedback_bits, options.bits);
  }
}

}  // namespace

void check_together(const LayerOptions& options) {
  for (const LayerOption& option : layer_options()) {
    if (option.misplaced == nullptr || !option.given(options)) continue;
    const std::string why = option.misplaced(options);
    if (!why.empty()) fail("--{} {}: leave out one of the two", option.name, why);
  }
  check_codebook(options);
  check_passes(options);
  check_groups(options);
}

}  // namespace quip
