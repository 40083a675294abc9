// LDLᵀ of a matrix spread over ranks, in fp64.
#pragma once

#include <span>

#include "quip/linalg/distributed_matrix.hpp"

namespace quip {

enum class DistributedCholesky {
  blocks,     ///< this program's: the bits depend neither on the grid nor on the ranks
  scalapack,  ///< pdpotrf: the bits belong to the grid and the block's width
};

/// ldl_factor for a distributed matrix (collective; all ranks of `comm` take part, in the grid or
/// not): on return the strict lower triangle of `h` holds L of H = (L+I) D (L+I)ᵀ, and `d` [n]
/// holds D on every rank. Returns 0, or on all ranks the order of the leading minor that is not
/// positive definite; `h` is then of no use.
[[nodiscard]] index_t distributed_ldl(Collectives& comm, DistributedMatrix& h,
                                      DistributedCholesky how, std::span<double> d);

/// H = L Lᵀ by blocks: right-looking, every operation on a block in a fixed shape, contributions in
/// ascending k, so that an element is the same chain of operations on any grid. Returns as above.
[[nodiscard]] index_t block_cholesky(Collectives& comm, DistributedMatrix& h);

/// The same by ScaLAPACK. Throws AgreedError if a rank's part is too large for its integers.
[[nodiscard]] index_t scalapack_cholesky(Collectives& comm, DistributedMatrix& h);

}  // namespace quip
