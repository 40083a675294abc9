// Which options go together. One list for the command line, configuration files and --override.
#include "quip/core/error.hpp"
#include "quip/quant/options/options.hpp"

namespace quip {
namespace {

constexpr index_t smallest_group = 8;
constexpr index_t largest_group = index_t{1} << 24;
constexpr int most_passes = 1000;

/// `option` has a meaning with `wanted` only.
void belongs(bool broken, const char* option, const std::string& wanted,
             const std::string& chosen) {
  if (!broken) return;
  fail("{} belongs to {} and does not go with {}: leave out one of the two", option, wanted,
       chosen);
}

void check_method(const LayerOptions& options) {
  const std::string method = "--method " + to_string(options.method);
  belongs(options.order && options.method != Method::ldlq, "--order", "--method ldlq", method);
  belongs(options.act_order && options.method != Method::optq, "--act-order", "--method optq",
          method);
  if (options.passes) {
    belongs(!takes_passes(options.method), "--passes", "methods that make greedy passes", method);
    const int fewest = options.method == Method::greedy ? 1 : 0;
    if (*options.passes < fewest || *options.passes > most_passes) {
      fail("--passes {}: must be {} to {} for {}", *options.passes, fewest, most_passes, method);
    }
  }
  if (options.rounding == Rounding::stochastic && options.effective_passes() > 0) {
    fail("--rounding stochastic: greedy passes would undo it; use --passes 0 or leave out {}",
         method);
  }
}

void check_grid(const LayerOptions& options) {
  // What chose the grid: an option of its own, or the bundle.
  const std::string chosen = options.grid_kind ? "--grid " + to_string(*options.grid_kind)
                                               : "--processing " + to_string(options.processing);
  const bool minmax = options.grid() == GridKind::minmax;
  belongs(options.rho && minmax, "--rho", "--grid incoherent", chosen);
  belongs(options.symmetric && !minmax, "--symmetric", "--grid minmax", chosen);
  belongs(options.group_size != 0 && !minmax, "--group-size", "--grid minmax", chosen);
  const index_t size = options.group_size;
  if (size != 0 && (size < smallest_group || size > largest_group)) {
    fail("--group-size {}: must be {} to {}", size, smallest_group, largest_group);
  }
}

void check_groups(const LayerOptions& options) {
  if (!options.groups) return;
  if (options.group_size == 0) {
    fail("--groups {}: there are none without --group-size; give that or leave out --groups",
         to_string(*options.groups));
  }
  if (options.groups != GroupFit::dynamic) return;
  belongs(options.method != Method::optq, "--groups dynamic", "--method optq",
          "--method " + to_string(options.method));
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

}  // namespace

void check_together(const LayerOptions& options) {
  check_method(options);
  check_grid(options);
  check_groups(options);
}

}  // namespace quip
