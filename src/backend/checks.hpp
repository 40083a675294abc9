// Checks of every backend's arguments. All throw Error.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "quip/backend/backend.hpp"

namespace quip {

/// Requires that `view` is [rows × cols].
void require_shape(ConstTensorView view, index_t rows, index_t cols, std::string_view what);
/// Requires as many host elements as the matrix has.
void check_copy(index_t host, ConstTensorView device);
void check_rope(ConstTensorView x, const RopeShape& shape, ConstTensorView cosine,
                ConstTensorView sine);
void check_attention(ConstTensorView q, ConstTensorView k, ConstTensorView v,
                     const AttentionShape& shape, ConstTensorView sinks, ConstTensorView out);
void check_route(ConstTensorView logits, const RouterShape& shape, ConstTensorView correction,
                 ConstTensorView routes);
/// Requires one of `rows`, which are rows of `all`, for each row of `some`.
void check_factors(std::span<const float> factors, ConstTensorView x);
void check_rows(ConstTensorView some, std::span<const index_t> rows, ConstTensorView all);
void check_log_sum_exp(ConstTensorView x, ConstTensorView w, std::span<const std::int32_t> targets,
                       std::span<const double> running_max, std::span<const double> running_sum,
                       std::span<const double> target_logit);
void check_channel_maximum(ConstTensorView x, std::span<const float> maximum);
/// Requires that `sum` is square, or the first columns of a square.
void check_hessian(ConstTensorView x, std::span<const float> scale, MatrixView<const double> sum);
void check_cross(ConstTensorView e, std::span<const float> e_scale, ConstTensorView x,
                 std::span<const float> scale, MatrixView<const double> sum);
/// Throws for an activation that does not fit in 16 bits.
[[noreturn]] void fail_outside_16_bits();
/// Refuses sizes that no machine has, before they overflow.
void check_size(index_t rows, index_t cols);

}  // namespace quip
