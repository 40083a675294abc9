// The layers that are too wide for the Hessian of one rank.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "quip/linalg/distribution.hpp"
#include "quip/quant/options/options.hpp"

namespace quip {

/// At this width one H takes 8 GiB, and its factorisation by one rank a minute or more. A number,
/// not a share of some machine's memory, because the choice changes last bits.
constexpr index_t default_wide_inputs = 32768;

/// The makers of the factors (WideLayer::cholesky), by width.
using WideFactorisers = std::map<index_t, std::set<std::string>>;

struct WideOptions {
  index_t inputs = default_wide_inputs;  ///< layers with this many and more are wide
  /// Grid for cuSOLVERMp or ScaLAPACK, on which the bits then depend; none: the program's own
  /// factorisation, on a grid made for the ranks there are, on which they do not.
  std::optional<GridShape> process_grid;

  [[nodiscard]] bool covers(index_t cols) const { return cols >= inputs; }
  /// Returns the layout of the H of a layer with `cols` inputs over `ranks`.
  [[nodiscard]] BlockCyclic layout(index_t cols, int ranks) const;
  /// Throws Error naming `layer` and the options if a wide layer is not possible with
  /// `layer_options` on this many ranks.
  void check(const std::string& layer, index_t cols, const LayerOptions& layer_options,
             int ranks) const;
  /// Throws Error naming the --wide that helps if Hessians of all `orders`, which are not wide,
  /// exceed a rank's part of a node's memory, swap not counted.
  void check_memory(std::vector<index_t> orders, double node_bytes, int ranks_on_node) const;
};

}  // namespace quip
