#include "quip/pipeline/wide_options.hpp"

#include <algorithm>

#include "quip/core/error.hpp"
#include "quip/pipeline/report.hpp"
#include "quip/quant/factor/lower_panels.hpp"

namespace quip {

BlockCyclic WideOptions::layout(index_t cols, int ranks) const {
  const index_t block = LowerPanels::block;  // rounding takes L in panels of it
  const index_t blocks = (cols + block - 1) / block;
  return {cols, block, process_grid.value_or(choose_grid_shape(ranks, blocks))};
}

void WideOptions::check(const std::string& layer, index_t cols, const LayerOptions& layer_options,
                        int ranks) const {
  const bool streams = traits_of(layer_options.method).streams;
  if (!streams || layer_options.effective_passes() > 0) {
    fail(
        "layer {}: --method {}{} needs its whole Hessian on a rank, and --wide {} spreads that of "
        "a layer with {} inputs: use --method {} there, or a larger --wide",
        layer, to_string(layer_options.method), streams ? " with --passes" : "", inputs, cols,
        methods_that([](const MethodTraits& method) { return method.streams; }));
  }
  if (layer_options.spectra) {
    fail(
        "layer {}: --statistics decomposes whole Hessians, and --wide {} spreads that of a layer "
        "with {} inputs: leave out --statistics, or use a larger --wide",
        layer, inputs, cols);
  }
  if (!process_grid) return;
  if (process_grid->size() > ranks) {
    fail(
        "--process-grid {}: needs {} ranks and this job has {}; start more, or name a smaller grid",
        to_string(*process_grid), process_grid->size(), ranks);
  }
  const index_t blocks = layout(cols, ranks).blocks();
  if (std::max(process_grid->rows, process_grid->cols) > blocks) {
    fail(
        "--process-grid {}: layer {} has {} inputs, which are {} blocks of {}, too few for as many "
        "rows or columns of ranks; name a smaller grid, or a larger --wide",
        to_string(*process_grid), layer, cols, blocks, LowerPanels::block);
  }
}

void WideOptions::check_memory(std::vector<index_t> orders, double node_bytes,
                               int ranks_on_node) const {
  std::sort(orders.begin(), orders.end());
  double bytes = 0;
  std::optional<index_t> too_wide;  // the narrowest that does not fit beside the narrower ones
  for (const index_t n : orders) {
    bytes += 8.0 * static_cast<double>(n) * static_cast<double>(n);
    if (!too_wide && bytes > node_bytes / ranks_on_node) too_wide = n;
  }
  if (!too_wide) return;
  fail(
      "the Hessians of a block take {} on each rank, and {} rank{} share{} the {} of a node: use "
      "fewer "
      "ranks per node, or --wide {} to spread them over all ranks",
      human_bytes(bytes), ranks_on_node, ranks_on_node == 1 ? "" : "s",
      ranks_on_node == 1 ? "s" : "", human_bytes(node_bytes), *too_wide);
}

}  // namespace quip
