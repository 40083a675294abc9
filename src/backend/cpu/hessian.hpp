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

/// Does the work of Backend::accumulate_cross by one kernel, not `best`.
void accumulate_cross(HessianKernel kernel, int threads, ConstTensorView e,
                      std::span<const float> e_scale, ConstTensorView x,
                      std::span<const float> scale, MatrixView<double> sum);

/// Returns the fastest kernel that this machine has.
[[nodiscard]] HessianKernel best_hessian_kernel();

/// Activations and the scales that make integers of them.
struct Factor {
  ConstTensorView x;
  std::span<const float> scale;
};

// They add Σ_t z'ᵀz, z' of `left` and z of `right`, one chunk of tokens after another; where both
// are the same, only the lower triangle. `outside` becomes true, and the sum undefined, if an
// integer does not fit in 16 bits.
void accumulate_int8(HessianKernel choice, int threads, const Factor& left, const Factor& right,
                     bool lower, MatrixView<double> sum, std::atomic<bool>& outside);
void accumulate_float64(int threads, const Factor& left, const Factor& right, bool lower,
                        MatrixView<double> sum, std::atomic<bool>& outside);

/// Returns how many of the tokens to take at once: those whose `bytes_per_element` representation
/// takes no more than 32 MiB or, where that is more, an eighth of the sum itself.
[[nodiscard]] index_t tokens_at_once(index_t tokens, index_t channels, MatrixView<const double> sum,
                                     index_t bytes_per_element);

struct TilePosition {
  index_t row;
  index_t col;
};
/// Returns the tiles of `sum`, `tile` wide: all, or those that touch the lower triangle.
[[nodiscard]] std::vector<TilePosition> tiles_of(MatrixView<const double> sum, index_t tile,
                                                 bool lower);

}  // namespace quip::cpu
