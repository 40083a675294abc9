// The factorisation of a matrix that is spread over the GPUs of a grid of ranks.
#pragma once

#include <memory>
#include <optional>

#include "context.hpp"

#include "quip/linalg/distributed_matrix.hpp"

namespace quip::cuda {

class GridCholesky {
 public:
  GridCholesky() = default;
  GridCholesky(const GridCholesky&) = delete;
  GridCholesky& operator=(const GridCholesky&) = delete;
  virtual ~GridCholesky() = default;

  /// Does the work of Quantizer::grid_cholesky.
  [[nodiscard]] virtual std::optional<index_t> factor(Collectives& comm, DistributedMatrix& h) = 0;
};

/// Makes the factorisation by cuSOLVERMp; null in a build without it.
[[nodiscard]] std::unique_ptr<GridCholesky> make_grid_cholesky(Context& context);

}  // namespace quip::cuda
