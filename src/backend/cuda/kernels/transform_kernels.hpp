// One kernel of an orthogonal transform: Y = A X for X [n × cols], where the steps beside the
// arithmetic (a permutation, a scaling, a change of layout, the unpacking of codes) happen on the
// way in and out. Every element comes out of the same sequence of operations as on the CPU.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include "quip/core/matrix.hpp"

namespace quip::cuda {

/// Element (i, j) is data[i·row_stride + j·col_stride].
template <typename T>
struct StridedMatrix {
  T* data = nullptr;
  index_t row_stride = 0;
  index_t col_stride = 0;
};

/// Packed codes as w' transposed: element (i, j) is (level − offset)·step of column i in row j of
/// W, counted from `first_column` on. Step and offset [rows × groups], groups of `group_size`
/// columns (0: one), or one pair for all where `single`.
struct CodeMatrix {
  const std::uint8_t* packed = nullptr;
  index_t row_bytes = 0;
  int bits = 0;
  bool single = false;
  const float* step = nullptr;
  const float* offset = nullptr;
  index_t groups = 1;
  std::uint32_t group_size = 0;
  std::uint32_t first_column = 0;
};

/// X(i, j) = elements(row[i], j)·factor[i]. Null: row i itself; no factor.
template <typename T, typename Elements>
struct StepInput {
  Elements elements;
  const index_t* row = nullptr;
  const T* factor = nullptr;
};
template <typename T>
using StridedInput = StepInput<T, StridedMatrix<const T>>;
using CodeInput = StepInput<float, CodeMatrix>;

/// elements(row[i], j) = Y(i, j)·factor[i]/divisor[j], in this order. Null: as above.
template <typename T>
struct StepOutput {
  StridedMatrix<T> elements;
  const index_t* row = nullptr;
  const T* factor = nullptr;
  const T* divisor = nullptr;
};

/// Levels of a Walsh–Hadamard transform: `radix` = 2ᵏ rows that are `step` apart meet. A block
/// takes `group` (1 or `step`) sets of them, neighbours in memory, in 2^`lane_bits` columns,
/// through shared memory; where a group is all of a step's sets, `runs` of radix·step rows.
struct WalshStep {
  index_t radix = 1;
  index_t step = 1;
  index_t group = 1;
  int lane_bits = 0;
  index_t runs = 1;

  [[nodiscard]] index_t elements() const { return radix * group * runs << lane_bits; }
};
/// Transforms all sets of X [n × cols], n a multiple of radix·step, the largest distance first.
/// Input and output may be the same memory if both leave the rows in their places.
void walsh_step(cudaStream_t stream, const StridedInput<float>& x, const StepOutput<float>& y,
                const WalshStep& walsh, index_t n, index_t cols);
void walsh_step(cudaStream_t stream, const StridedInput<double>& x, const StepOutput<double>& y,
                const WalshStep& walsh, index_t n, index_t cols);
void walsh_step(cudaStream_t stream, const CodeInput& x, const StepOutput<float>& y,
                const WalshStep& walsh, index_t n, index_t cols);

/// Small matrices A [order × order] times rows of X: batch b, set w < width multiplies the rows
/// b·batch_stride + w + i·stride for i < order. A(i, k) of batch b is
/// factors[b·factor_step + i·row_stride + k·col_stride].
template <typename T>
struct ProductStep {
  const T* factors = nullptr;
  index_t order = 1;
  index_t row_stride = 0;
  index_t col_stride = 0;
  index_t factor_step = 0;
  index_t stride = 1;
  index_t width = 1;
  index_t batches = 1;
  index_t batch_stride = 0;
};
/// Multiplies all `cols` columns; each element is one chain of multiply-adds from 0 in ascending k.
/// Input and output are different memory.
void product_step(cudaStream_t stream, const StridedInput<float>& x, const StepOutput<float>& y,
                  const ProductStep<float>& product, index_t cols);
void product_step(cudaStream_t stream, const StridedInput<double>& x, const StepOutput<double>& y,
                  const ProductStep<double>& product, index_t cols);
void product_step(cudaStream_t stream, const CodeInput& x, const StepOutput<float>& y,
                  const ProductStep<float>& product, index_t cols);

/// Unpacks without a transform: w' [rows × cols] through `out`, whose rows are those of W.
void unpack_codes(cudaStream_t stream, const CodeMatrix& codes, const StepOutput<float>& out,
                  index_t rows, index_t cols);

}  // namespace quip::cuda
