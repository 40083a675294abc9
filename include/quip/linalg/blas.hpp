// BLAS on row-major views: shapes come from the views and are checked.
#pragma once

#include "quip/core/matrix.hpp"

namespace quip {

enum class Transpose { no, yes };

/// Computes C = α op(A) op(B) + β C, with op(A) [m × k], op(B) [k × n], C [m × n]. β = 0 overwrites
/// C, even NaN. Throws Error if the shapes do not fit together, or a size does not fit in the
/// integers of the BLAS.
void gemm(Transpose transpose_a, Transpose transpose_b, float alpha, MatrixView<const float> a,
          MatrixView<const float> b, float beta, MatrixView<float> c);
void gemm(Transpose transpose_a, Transpose transpose_b, double alpha, MatrixView<const double> a,
          MatrixView<const double> b, double beta, MatrixView<double> c);

/// Computes the lower triangle of C = α op(A) op(A)ᵀ + β C, with op(A) [n × k], C [n × n]. The
/// upper triangle is neither read nor written. Throws like gemm.
void syrk_lower(Transpose transpose_a, float alpha, MatrixView<const float> a, float beta,
                MatrixView<float> c);
void syrk_lower(Transpose transpose_a, double alpha, MatrixView<const double> a, double beta,
                MatrixView<double> c);

/// Makes every later BLAS call of this process run on its calling thread alone: the bits of a
/// result depend on the number of BLAS threads, and units of work already fill the cores.
void use_one_blas_thread();

/// Restarts the program with OPENBLAS_CORETYPE if the BLAS has fallen back to kernels without AVX,
/// because it is older than the processor: those run at a fifth of the speed (OpenBLAS 0.3.21 on a
/// Xeon of 2023), and the choice is made while the library is loaded. Returns if all is well or the
/// user has chosen. Call it first in `main`, before MPI and threads.
void restart_with_fitting_blas_kernels(char** argv);

/// Returns the name of the kernels that the BLAS chose for this processor, e.g. "SkylakeX".
[[nodiscard]] const char* blas_kernel_name();

}  // namespace quip
