// Exact sums of products of integers: Σ_t zᵀz with z = round(x · scale).
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <vector>

#include "backend/fixed_point.hpp"
#include "core/simd.hpp"

#include "quip/backend/cpu_backend.hpp"

namespace quip::cpu {

/// Does the work of Backend::accumulate_hessian by one kernel, not `best`. `sum` may also be the
/// first columns only.
void accumulate_hessian(HessianKernel kernel, int threads, ConstTensorView x,
                        std::span<const float> scale, MatrixView<double> sum);

/// Returns the fastest kernel that this machine has.
[[nodiscard]] HessianKernel best_hessian_kernel();

// They take one chunk of tokens after another. `outside` becomes true, and the sum undefined, if a
// z does not fit in 16 bits.
void accumulate_int8(HessianKernel choice, int threads, ConstTensorView x,
                     std::span<const float> scale, MatrixView<double> sum,
                     std::atomic<bool>& outside);
void accumulate_float64(int threads, ConstTensorView x, std::span<const float> scale,
                        MatrixView<double> sum, std::atomic<bool>& outside);

/// Returns the tokens whose `bytes_per_element` representation takes no more than 32 MiB or, where
/// that is more, an eighth of the sum itself.
[[nodiscard]] index_t tokens_at_once(ConstTensorView x, MatrixView<const double> sum,
                                     index_t bytes_per_element);

/// The tiles of `sum`, `tile` wide, that touch the lower triangle.
struct TilePosition {
  index_t row;
  index_t col;
};
[[nodiscard]] std::vector<TilePosition> lower_tiles(MatrixView<const double> sum, index_t tile);

}  // namespace quip::cpu
