// The operations of the CPU backend as free functions, grouped by file. Contracts: see Backend.
#pragma once

#include <cstdint>
#include <span>

#include "backend/checks.hpp"

#include "quip/backend/backend.hpp"

namespace quip::cpu {

// norm.cpp
void rms_norm(ConstTensorView x, const Gain& gain, float epsilon, TensorView y);
void layer_norm(ConstTensorView x, ConstTensorView gain, ConstTensorView bias, float epsilon,
                TensorView y);

// elementwise.cpp
void scale(float factor, TensorView x);
void scale_rows(std::span<const float> factors, TensorView x);
void add(ConstTensorView x, TensorView y);
void copy(ConstTensorView x, TensorView y);
/// Sets every row of y to bias, or adds bias to it.
void set_rows(ConstTensorView bias, TensorView y);
void add_rows(ConstTensorView bias, TensorView y);
void rope(TensorView x, const RopeShape& shape, ConstTensorView cosine, ConstTensorView sine);
void channel_maximum(ConstTensorView x, std::span<float> maximum);

// activation.cpp
void activate(Activation kind, TensorView x);
void gated_activate(Activation kind, TensorView gate, ConstTensorView up);
void clamped_swiglu(const ClampedSwiglu& shape, TensorView gate, ConstTensorView up);

// attention.cpp
void attention(ConstTensorView q, ConstTensorView k, ConstTensorView v, const AttentionShape& shape,
               ConstTensorView sinks, TensorView out);

// route.cpp
void route(ConstTensorView logits, const RouterShape& shape, ConstTensorView correction,
           TensorView routes);
void gather_rows(ConstTensorView x, std::span<const index_t> rows, TensorView y);
void scatter_add_rows(ConstTensorView x, std::span<const index_t> rows,
                      std::span<const float> weights, TensorView y);

// loss.cpp
void log_sum_exp_slice(ConstTensorView x, ConstTensorView w, index_t first_row, float soft_cap,
                       std::span<const std::int32_t> targets, std::span<double> running_max,
                       std::span<double> running_sum, std::span<double> target_logit);

}  // namespace quip::cpu
