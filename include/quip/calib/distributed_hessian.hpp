// The exact Hessian of a layer so wide that no rank holds it as a whole.
#pragma once

#include <vector>

#include "quip/calib/channel_scales.hpp"
#include "quip/linalg/distributed_matrix.hpp"

namespace quip {

/// Returns the diagonal of exact_hessian's H, bit for bit, on every rank (collective).
[[nodiscard]] std::vector<double> hessian_diagonal(Collectives& comm, Backend& backend,
                                                   ConstTensorView x, const ChannelScales& scales);

/// Returns the number of columns of H that are summed at a time; a rank needs room for two such
/// panels of n rows.
[[nodiscard]] index_t hessian_panel_width(index_t n, int ranks);

/// Returns where in a panel, block columns [first, last) in the order of their owners, each rank's
/// elements begin, and where the last end.
[[nodiscard]] std::vector<index_t> panel_offsets(const BlockCyclic& layout, index_t first,
                                                 index_t last, int ranks);

/// Puts the lower triangle of `factor` times exact_hessian's H (bit for bit, for 1) into the blocks
/// of `h` (collective): panels of columns, each summed over this rank's tokens, then over ranks
/// into the hands of the blocks' owners.
void distributed_hessian(Collectives& comm, Backend& backend, ConstTensorView x,
                         const ChannelScales& scales, double factor, DistributedMatrix& h);

}  // namespace quip
