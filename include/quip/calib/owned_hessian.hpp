// Exact sums of outer products that one rank each needs: those of experts.
#pragma once

#include <string>
#include <vector>

#include "quip/backend/backend.hpp"
#include "quip/comm/collectives.hpp"
#include "quip/core/matrix.hpp"

namespace quip {

/// The inputs of some layers on this rank.
struct OwnedInput {
  ConstTensorView x;       ///< [this rank's tokens × n]
  int owner = 0;           ///< rank that gets H
  std::string layer = {};  ///< for messages
  ConstTensorView e = {};  ///< [this rank's tokens × m], or empty
};

struct OwnedHessian {
  Matrix<double>
      h;  ///< lower triangle of Σₜ xₜᵀxₜ / T; empty elsewhere than on the owner, and for T = 0
  Matrix<double> cross = {};  ///< Σₜ eₜᵀxₜ / T [m × n], where h is, if there are e
  double energy = 0;          ///< Σₜ‖eₜ‖² / T there
  index_t tokens = 0;         ///< T, of all ranks
};

/// True if the rows of T tokens travel to the owner of H [n × n] and of m more rows, as 16-bit
/// integers: they are fewer bytes than a rank's part of the sums.
[[nodiscard]] bool rows_travel(index_t tokens, index_t n, index_t m = 0);

/// Sums them, all with the same n and m, each with the bits of exact_hessian for any number of
/// ranks and whichever way it goes (collective). Throws AgreedError for a NaN or an infinity,
/// naming layer and channel.
[[nodiscard]] std::vector<OwnedHessian> owned_hessians(Collectives& comm, Backend& backend,
                                                       const std::vector<OwnedInput>& inputs);

}  // namespace quip
