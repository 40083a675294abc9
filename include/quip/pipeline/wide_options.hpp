// Which layers are too wide for the Hessian of one rank.
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

/// By width: who factorised such layers (WideLayer::cholesky).
using WideFactorisers = std::map<index_t, std::set<std::string>>;

struct WideOptions {
  index_t inputs = default_wide_inputs;  ///< layers with so many and more are wide
  /// cuSOLVERMp or ScaLAPACK on this grid; none: the program's own factorisation, on a grid made
  /// for the ranks there are. The bits depend on the former, not on the latter.
  std::optional<GridShape> process_grid;

  [[nodiscard]] bool covers(index_t cols) const { return cols >= inputs; }
  /// How the H of a layer with `cols` inputs is spread over `ranks`.
  [[nodiscard]] BlockCyclic layout(index_t cols, int ranks) const;
  /// Throws Error naming `layer` and the options for a wide layer that cannot be had with
  /// `layer_options` on so many ranks.
  void check(const std::string& layer, index_t cols, const LayerOptions& layer_options,
             int ranks) const;
  /// A rank holds a Hessian of each of `orders`, which are not wide, at a time. Throws Error naming
  /// the --wide that helps if they exceed a rank's part of a node's memory, swap not counted.
  void check_memory(std::vector<index_t> orders, double node_bytes, int ranks_on_node) const;
};

}  // namespace quip
