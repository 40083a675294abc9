// The kernels, one file each. They are ordered on `stream`; views are on the device, and callers
// have checked their shapes. x is [tokens × features].
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "quip/backend/backend.hpp"

namespace quip::cuda {

// ---- the forward pass ----

/// y [rows × y.ld] = x, to the nearest; columns from x.cols to y.ld become zero.
void to_bf16(cudaStream_t stream, ConstTensorView x, MatrixView<__nv_bfloat16> y);
void add(cudaStream_t stream, ConstTensorView x, TensorView y);
void scale(cudaStream_t stream, float factor, TensorView x);
/// x = cap · tanh(x / cap).
void cap_softly(cudaStream_t stream, float cap, TensorView x);
/// Sets every row of y to bias, or adds bias to it.
void set_rows(cudaStream_t stream, ConstTensorView bias, TensorView y);
void add_rows(cudaStream_t stream, ConstTensorView bias, TensorView y);
void rms_norm(cudaStream_t stream, ConstTensorView x, const Gain& gain, float epsilon,
              TensorView y);
void layer_norm(cudaStream_t stream, ConstTensorView x, ConstTensorView gain, ConstTensorView bias,
                float epsilon, TensorView y);
void rope(cudaStream_t stream, TensorView x, const RopeShape& shape, ConstTensorView cosine,
          ConstTensorView sine);
void activate(cudaStream_t stream, Activation kind, TensorView x);
void gated_activate(cudaStream_t stream, Activation kind, TensorView gate, ConstTensorView up);
void clamped_swiglu(cudaStream_t stream, const ClampedSwiglu& shape, TensorView gate,
                    ConstTensorView up);
/// y = x Wᵀ with operands in fp32.
void linear_in_fp32(cudaStream_t stream, ConstTensorView x, ConstTensorView w, TensorView y);
/// Chooses experts, as Backend::route.
void route(cudaStream_t stream, ConstTensorView logits, const RouterShape& shape,
           ConstTensorView correction, TensorView routes);
/// Row rows[i] of y += weights[i] · row i of x; no row of y twice.
void scatter_add_rows(cudaStream_t stream, ConstTensorView x, const index_t* rows,
                      const float* weights, TensorView y);
/// True if such heads fit in the shared memory that a block can have.
[[nodiscard]] bool attention_fits(std::size_t shared_memory, const AttentionShape& shape);
void attention(cudaStream_t stream, std::size_t shared_memory, ConstTensorView q, ConstTensorView k,
               ConstTensorView v, const AttentionShape& shape, ConstTensorView sinks,
               TensorView out);
/// The maximum of a row, Σ exp(x − maximum), and the element at target − first (0 if it is not in
/// the row).
struct RowExponentials {
  double sum;
  float maximum;
  float target;
};
void sum_exponentials(cudaStream_t stream, ConstTensorView logits, const std::int32_t* targets,
                      index_t first, RowExponentials* rows);

// ---- exact Hessians ----

/// maximum[j] = max(maximum[j], max_t |x[t, j]|) of the numbers' bits: NaN is above infinity.
void channel_maximum(cudaStream_t stream, ConstTensorView x, std::int32_t* maximum);
/// z = round(x·scale) = 2⁸·high + low + 128 with signed bytes, transposed: channel j of x is row j
/// of `high` and `low` [channels × tokens], both padded with zero bytes. sums[j] += Σ_t (2⁸·high +
/// low); *outside = 1 if a z does not fit in 16 bits.
void slice(cudaStream_t stream, ConstTensorView x, const float* scale, MatrixView<std::int8_t> high,
           MatrixView<std::int8_t> low, std::int64_t* sums, std::int32_t* outside);
/// sum += 2¹⁶·high + 2⁸·cross + low + 128·(row_sums[i] + col_sums[j]) + 128²·tokens.
void combine_slices(cudaStream_t stream, MatrixView<const std::int32_t> high,
                    MatrixView<const std::int32_t> cross, MatrixView<const std::int32_t> low,
                    const std::int64_t* row_sums, const std::int64_t* col_sums, index_t tokens,
                    MatrixView<double> sum);

}  // namespace quip::cuda
