// One throwing check for each library of the CUDA toolkit.
#pragma once

#include <cusolverDn.h>

#include <cublasLt.h>
#include <cuda_runtime.h>

namespace quip::cuda {

/// Throws Error carrying the call, the library's text and the place, unless `code` is success.
void check(cudaError_t code, const char* call, const char* file, int line);
void check(cublasStatus_t code, const char* call, const char* file, int line);
void check(cusolverStatus_t code, const char* call, const char* file, int line);

#define QUIP_CUDA(call) ::quip::cuda::check((call), #call, __FILE__, __LINE__)

}  // namespace quip::cuda
