#include "quip/pipeline/wide_options.hpp"

#include "quip/core/error.hpp"
#include "quip/quant/lower_panels.hpp"

namespace quip {

BlockCyclic WideOptions::layout(index_t cols, int ranks) const {
  const index_t block = LowerPanels::block;  // rounding takes L in panels of it
  const index_t blocks = (cols + block - 1) / block;
  return {cols, block, process_grid.value_or(choose_grid_shape(ranks, blocks))};
}

void WideOptions::check(const std::string& layer, index_t cols, const LayerOptions& layer_options,
                        int ranks) const {
  const bool factor_only =
      layer_options.method == Method::nearest ||
      (layer_options.method == Method::ldlq && layer_options.effective_passes() == 0);
  if (!factor_only) {
    fail(
        "layer {}: --method {}{} needs its whole Hessian on a rank, and --wide {} spreads that of "
        "a "
        "layer with {} inputs: use --method ldlq or nearest there, or a larger --wide",
        layer, to_string(layer_options.method),
        layer_options.method == Method::ldlq ? " with --passes" : "", inputs, cols);
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

}  // namespace quip
