// Exact sums of outer products of activations.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "quip/backend/backend.hpp"
#include "quip/comm/collectives.hpp"
#include "quip/core/matrix.hpp"

namespace quip {

/// Returns the first row of each piece in which the lower triangle of a Hessian of order n is
/// summed over ranks, and n. Pieces are equal, of whole rows, and take about staged_bytes
/// (comm/schedule.hpp), or all of the triangle if that is less.
[[nodiscard]] std::vector<index_t> triangle_pieces(index_t n);

/// Has `sum` add up, over ranks, the lower triangle of `h`, piece by piece.
void sum_lower_triangle(MatrixView<double> h, const std::function<void(std::span<double>)>& sum);

/// Returns H = Σₜ xₜᵀxₜ / T over the activations of all ranks; `x` [this rank's tokens × n]. The
/// lower triangle of the result is filled. Collective.
///
/// Each channel is scaled by a power of two and rounded to a 16-bit integer, with the channel's
/// largest magnitude over all ranks near 2¹⁵; the sums are then sums of integers, exact in any
/// order: H has the same bits on any number of ranks. `what` names the layer in messages; throws
/// AgreedError for a NaN or an infinity, naming layer, sample and channel.
[[nodiscard]] Matrix<double> exact_hessian(Collectives& comm, Backend& backend, ConstTensorView x,
                                           index_t first_sample, index_t sample_length,
                                           const std::string& what);

}  // namespace quip
