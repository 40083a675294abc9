// A matrix product whose bits depend on its operands alone.
//
// A BLAS is free to choose the order of the sum over k by shape, thread count and CPU, so cutting a
// product differently changes its last bits. Here every element of C is one chain of multiply-adds
// in ascending k: rows, columns and k may be cut anywhere, by any number of ranks or threads, and
// the result is the same.
#pragma once

#include "quip/core/matrix.hpp"

namespace quip {

/// A(i, k) = data[i·row_stride + k·col_stride]: plain, transposed or packed.
template <typename T>
struct StridedView {
  const T* data;
  index_t row_stride;
  index_t col_stride;
};

/// Adds A·B to C, with A [m × k], B [k × n] (rows ldb apart), C [m × n] (rows ldc apart). Serial;
/// callers run it on disjoint parts of C in parallel. T is float or double.
template <typename T>
void ordered_gemm(index_t m, index_t n, index_t k, StridedView<T> a, const T* b, index_t ldb, T* c,
                  index_t ldc);

/// Sets C = A·B, the chains starting from zero; C is not read.
template <typename T>
void ordered_product(index_t m, index_t n, index_t k, StridedView<T> a, const T* b, index_t ldb,
                     T* c, index_t ldc);

}  // namespace quip
