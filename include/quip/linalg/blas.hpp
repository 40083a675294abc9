// BLAS on row-major views: shapes come from the views and are checked.
#pragma once

#include "quip/core/matrix.hpp"

namespace quip {

enum class Transpose { no, yes };

/// C = α op(A) op(B) + β C, with op(A) [m × k], op(B) [k × n], C [m × n]. β = 0 overwrites C
/// whatever it held. Throws Error if the shapes do not fit together, or a size does not fit in
/// the integers of the BLAS.
void gemm(Transpose transpose_a, Transpose transpose_b, float alpha, MatrixView<const float> a,
          MatrixView<const float> b, float beta, MatrixView<float> c);
void gemm(Transpose transpose_a, Transpose transpose_b, double alpha, MatrixView<const double> a,
          MatrixView<const double> b, double beta, MatrixView<double> c);

/// Lower triangle of C = α op(A) op(A)ᵀ + β C, with op(A) [n × k], C [n × n]. The upper
/// triangle is neither read nor written. Throws like gemm.
void syrk_lower(Transpose transpose_a, float alpha, MatrixView<const float> a, float beta,
                MatrixView<float> c);
void syrk_lower(Transpose transpose_a, double alpha, MatrixView<const double> a, double beta,
                MatrixView<double> c);

/// From here on every BLAS call of this process runs on its calling thread alone: the bits of a
/// result depend on the number of BLAS threads, and units of work already fill the cores.
void use_one_blas_thread();

/// A BLAS older than the processor does not recognise it and falls back to kernels without AVX, at
/// a fifth of the speed (OpenBLAS 0.3.21 on a Xeon of 2023). Where that is so, runs the program
/// anew with OPENBLAS_CORETYPE naming the kernels that the processor can run, because the choice is
/// made while the library is loaded. Returns if all is well or the user has chosen. Call it first
/// in `main`, before MPI and threads.
void restart_with_fitting_blas_kernels(char** argv);

/// The name of the kernels that the BLAS chose for this processor, e.g. "SkylakeX".
[[nodiscard]] const char* blas_kernel_name();

}  // namespace quip
