// Exact sums of products of integers on the tensor cores.
#pragma once

#include <span>

#include "context.hpp"

#include "quip/backend/backend.hpp"

namespace quip::cuda {

/// Does Backend::accumulate_hessian's work for a device x; `sum` may be the first columns alone.
void accumulate_hessian(Context& context, ConstTensorView x, std::span<const float> scale,
                        MatrixView<double> sum);

/// Does Backend::accumulate_cross's work.
void accumulate_cross(Context& context, ConstTensorView e, std::span<const float> e_scale,
                      ConstTensorView x, std::span<const float> scale, MatrixView<double> sum);

}  // namespace quip::cuda
