// Exact sums of products of two activations.
#pragma once

#include <vector>

#include "quip/calib/channel_scales.hpp"
#include "quip/core/matrix.hpp"

namespace quip {

/// Two activations of the same tokens of this rank, with the scales that measure_channels gives.
struct CrossInput {
  ConstTensorView e;  ///< [tokens × m]
  const ChannelScales& e_scales;
  ConstTensorView x;  ///< [tokens × n]
  const ChannelScales& x_scales;
};

/// Returns some rows of C = Σₜ eₜᵀxₜ / T [m × n] over the tokens of all ranks; `rows` are those
/// that each rank gets, all of them together (collective). By integers, as exact_hessian: the same
/// bits on any number of ranks. Needs room for a piece of C besides.
[[nodiscard]] Matrix<double> cross_sum_rows(Collectives& comm, Backend& backend,
                                            const CrossInput& input,
                                            const std::vector<Range>& rows);

/// Returns the first row of each piece in which C [m × n] is summed over ranks, and m: whole units
/// of 32 rows, of about 64 MiB.
[[nodiscard]] std::vector<index_t> cross_pieces(index_t m, index_t n);

}  // namespace quip
