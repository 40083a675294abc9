// Exact sums of products of integers on the tensor cores.
#pragma once

#include <span>

#include "context.hpp"

#include "quip/backend/backend.hpp"

namespace quip::cuda {

/// Backend::accumulate_hessian for a device x; `sum` may be the first columns alone.
void accumulate_hessian(Context& context, ConstTensorView x, std::span<const float> scale,
                        MatrixView<double> sum);

/// How the sum is cut so that it fits: tiles of `edge` channels a side, `tokens` at a time.
struct HessianPlan {
  index_t edge = 0;
  index_t tokens = 0;
};
/// The largest tile whose sum, products and slices fit in `bytes`. Throws Error if not even the
/// smallest does.
[[nodiscard]] HessianPlan plan_hessian(index_t channels, index_t tokens, std::size_t bytes);
/// Bytes that a plan takes.
[[nodiscard]] std::size_t hessian_bytes(const HessianPlan& plan);

}  // namespace quip::cuda
