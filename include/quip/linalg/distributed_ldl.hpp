// LDLᵀ of a matrix spread over ranks, in fp64.
#pragma once

#include <functional>
#include <span>

#include "quip/linalg/distributed_matrix.hpp"

namespace quip {

/// Factorises H = C Cᵀ in place, lower triangle (collective; all ranks of the group take part, in
/// the grid or not). Returns 0, or on all ranks the order of the leading minor that is not positive
/// definite; the matrix is then undefined.
using DistributedCholesky = std::function<index_t(Collectives&, DistributedMatrix&)>;

/// Does the work of ldl_factor for a distributed matrix, by way of `cholesky`: on return the strict
/// lower triangle of `h` holds L of H = (L+I) D (L+I)ᵀ, and `d` [n] holds D on every rank.
[[nodiscard]] index_t distributed_ldl(Collectives& comm, DistributedMatrix& h,
                                      const DistributedCholesky& cholesky, std::span<double> d);

/// Goes by blocks: right-looking, every operation on a block in a fixed shape, contributions in
/// ascending k, so that an element is the same chain of operations on any grid of any ranks.
[[nodiscard]] index_t block_cholesky(Collectives& comm, DistributedMatrix& h);

/// Calls pdpotrf of ScaLAPACK: the bits belong to the grid and the block's width. Throws
/// AgreedError if a rank's part is too large for its integers.
[[nodiscard]] index_t scalapack_cholesky(Collectives& comm, DistributedMatrix& h);

}  // namespace quip
