// cublasLt and cuSOLVER by their definitions, with the restrictions that their documentation names.
#include <cmath>
#include <cstring>
#include <vector>

#include "cublasLt.h"
#include "cuda_bf16.h"
#include "cusolverDn.h"

struct CublasLtOnHost {};
struct CublasLtPreferenceOnHost {
  std::uint32_t alignment[4] = {256, 256, 256, 256};  // alignments of A, B, C and D
};
struct CublasLtDescOnHost {
  cublasComputeType_t compute;
  cublasOperation_t trans_a = CUBLAS_OP_N;
  cublasOperation_t trans_b = CUBLAS_OP_N;
};
struct CublasLtLayoutOnHost {
  cudaDataType type;
  std::uint64_t rows;
  std::uint64_t cols;
  std::int64_t ld;
};
struct CusolverOnHost {};
struct CusolverParamsOnHost {};

namespace {

/// Returns element (i, j) of op(X), column-major as in the library.
template <typename T>
T element(const T* x, std::int64_t ld, cublasOperation_t op, std::uint64_t i, std::uint64_t j) {
  const auto row = static_cast<std::int64_t>(op == CUBLAS_OP_N ? i : j);
  const auto col = static_cast<std::int64_t>(op == CUBLAS_OP_N ? j : i);
  return x[row + col * ld];
}

bool fits(const CublasLtDescOnHost& desc, const CublasLtLayoutOnHost& a,
          const CublasLtLayoutOnHost& b, const CublasLtLayoutOnHost& c) {
  const auto rows = desc.trans_a == CUBLAS_OP_N ? a.rows : a.cols;
  const auto inner_a = desc.trans_a == CUBLAS_OP_N ? a.cols : a.rows;
  const auto inner_b = desc.trans_b == CUBLAS_OP_N ? b.rows : b.cols;
  const auto cols = desc.trans_b == CUBLAS_OP_N ? b.cols : b.rows;
  if (rows != c.rows || cols != c.cols || inner_a != inner_b) return false;
  for (const auto* layout : {&a, &b, &c}) {
    if (layout->ld < static_cast<std::int64_t>(layout->rows)) return false;
  }
  if (desc.compute != CUBLAS_COMPUTE_32I) return true;
  // Integers on tensor cores: op(A) transposed, op(B) not, sizes and strides multiples of 4.
  if (desc.trans_a != CUBLAS_OP_T || desc.trans_b != CUBLAS_OP_N) return false;
  return c.rows % 4 == 0 && inner_a % 4 == 0 && a.ld % 4 == 0 && b.ld % 4 == 0 && c.ld % 4 == 0;
}

template <typename In, typename Out, typename Convert>
void multiply(const CublasLtDescOnHost& desc, const CublasLtLayoutOnHost& al, const In* a,
              const CublasLtLayoutOnHost& bl, const In* b, Out beta, const CublasLtLayoutOnHost& cl,
              Out* c, const Convert& convert) {
  const auto inner = desc.trans_a == CUBLAS_OP_N ? al.cols : al.rows;
  std::vector<Out> row(inner);
  std::vector<Out> columns(inner * cl.cols);
  for (std::uint64_t j = 0; j < cl.cols; ++j) {
    for (std::uint64_t k = 0; k < inner; ++k) {
      columns[j * inner + k] = convert(element(b, bl.ld, desc.trans_b, k, j));
    }
  }
  for (std::uint64_t i = 0; i < cl.rows; ++i) {
    for (std::uint64_t k = 0; k < inner; ++k)
      row[k] = convert(element(a, al.ld, desc.trans_a, i, k));
    for (std::uint64_t j = 0; j < cl.cols; ++j) {
      Out sum = 0;
      const Out* column = columns.data() + j * inner;
      for (std::uint64_t k = 0; k < inner; ++k) sum += row[k] * column[k];
      Out& out = c[static_cast<std::int64_t>(i) + static_cast<std::int64_t>(j) * cl.ld];
      out = beta == 0 ? sum : sum + beta * out;
    }
  }
}

}  // namespace

const char* cublasLtGetStatusString(cublasStatus_t status) {
  return status == CUBLAS_STATUS_SUCCESS ? "success" : "not supported";
}
cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = new CublasLtOnHost;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute,
                                        cudaDataType /*scale*/) {
  *desc = new CublasLtDescOnHost{compute};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  delete desc;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, std::size_t bytes) {
  auto& field = attribute == CUBLASLT_MATMUL_DESC_TRANSA ? desc->trans_a : desc->trans_b;
  if (bytes != sizeof field) return CUBLAS_STATUS_NOT_SUPPORTED;
  std::memcpy(&field, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type,
                                          std::uint64_t rows, std::uint64_t cols, std::int64_t ld) {
  *layout = new CublasLtLayoutOnHost{type, rows, cols, ld};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = new CublasLtPreferenceOnHost;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, std::size_t bytes) {
  if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) {
    return bytes == sizeof(std::size_t) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
  }
  if (bytes != sizeof(std::uint32_t)) return CUBLAS_STATUS_NOT_SUPPORTED;
  std::memcpy(&preference->alignment[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value,
              bytes);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t /*handle*/,
                                              cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                              cublasLtMatrixLayout_t /*d*/,
                                              cublasLtMatmulPreference_t preference, int /*wanted*/,
                                              cublasLtMatmulHeuristicResult_t* results,
                                              int* found) {
  *found = fits(*desc, *a, *b, *c) ? 1 : 0;
  *results = {};
  for (int i = 0; i < 4; ++i) results->algo.data[i] = preference->alignment[i];
  return *found == 1 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}
cublasStatus_t cublasLtMatmul(cublasLtHandle_t /*handle*/, cublasLtMatmulDesc_t desc,
                              const void* alpha, const void* a, cublasLtMatrixLayout_t a_layout,
                              const void* b, cublasLtMatrixLayout_t b_layout, const void* beta,
                              const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t /*d_layout*/, const cublasLtMatmulAlgo_t* algo,
                              void* /*workspace*/, std::size_t /*workspace_bytes*/,
                              cudaStream_t /*stream*/) {
  if (!fits(*desc, *a_layout, *b_layout, *c_layout) || c != d) return CUBLAS_STATUS_NOT_SUPPORTED;
  const void* operands[] = {a, b, c, d};
  for (int i = 0; i < 4; ++i) {  // the promise under which the algorithm was chosen
    if (reinterpret_cast<std::uintptr_t>(operands[i]) % algo->data[i] != 0) {
      return CUBLAS_STATUS_NOT_SUPPORTED;
    }
  }
  if (a_layout->type == CUDA_R_8I && c_layout->type == CUDA_R_32I) {
    const auto one = *static_cast<const std::int32_t*>(alpha);
    if (one != 1) return CUBLAS_STATUS_NOT_SUPPORTED;
    multiply(*desc, *a_layout, static_cast<const std::int8_t*>(a), *b_layout,
             static_cast<const std::int8_t*>(b), *static_cast<const std::int32_t*>(beta), *c_layout,
             static_cast<std::int32_t*>(d), [](std::int8_t x) { return std::int32_t{x}; });
    return CUBLAS_STATUS_SUCCESS;
  }
  if (a_layout->type == CUDA_R_16BF && c_layout->type == CUDA_R_32F) {
    if (*static_cast<const float*>(alpha) != 1.0F) return CUBLAS_STATUS_NOT_SUPPORTED;
    multiply(*desc, *a_layout, static_cast<const __nv_bfloat16*>(a), *b_layout,
             static_cast<const __nv_bfloat16*>(b), *static_cast<const float*>(beta), *c_layout,
             static_cast<float*>(d), [](__nv_bfloat16 x) { return __bfloat162float(x); });
    return CUBLAS_STATUS_SUCCESS;
  }
  return CUBLAS_STATUS_NOT_SUPPORTED;
}

cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t* handle) {
  *handle = new CusolverOnHost;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDestroy(cusolverDnHandle_t handle) {
  delete handle;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t /*handle*/, cudaStream_t /*stream*/) {
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnCreateParams(cusolverDnParams_t* params) {
  *params = new CusolverParamsOnHost;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDestroyParams(cusolverDnParams_t params) {
  delete params;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnXpotrf_bufferSize(cusolverDnHandle_t /*handle*/,
                                             cusolverDnParams_t /*params*/,
                                             cublasFillMode_t /*uplo*/, std::int64_t /*n*/,
                                             cudaDataType type, const void* /*a*/,
                                             std::int64_t /*lda*/, cudaDataType compute,
                                             std::size_t* device_bytes, std::size_t* host_bytes) {
  *device_bytes = 64;
  *host_bytes = 0;
  return type == CUDA_R_64F && compute == CUDA_R_64F ? CUSOLVER_STATUS_SUCCESS
                                                     : CUSOLVER_STATUS_INVALID_VALUE;
}
// Cholesky, column by column; the other triangle is left alone.
cusolverStatus_t cusolverDnXpotrf(cusolverDnHandle_t /*handle*/, cusolverDnParams_t /*params*/,
                                  cublasFillMode_t uplo, std::int64_t n, cudaDataType type, void* a,
                                  std::int64_t lda, cudaDataType /*compute*/, void* device_buffer,
                                  std::size_t device_bytes, void* /*host_buffer*/,
                                  std::size_t /*host_bytes*/, int* info) {
  if (type != CUDA_R_64F || lda < n || device_buffer == nullptr || device_bytes < 64) {
    return CUSOLVER_STATUS_INVALID_VALUE;
  }
  auto* elements = static_cast<double*>(a);
  const auto at = [&](std::int64_t i, std::int64_t j) -> double& {
    return uplo == CUBLAS_FILL_MODE_LOWER ? elements[i + j * lda] : elements[j + i * lda];
  };
  *info = 0;
  for (std::int64_t j = 0; j < n; ++j) {
    double pivot = at(j, j);
    for (std::int64_t k = 0; k < j; ++k) pivot -= at(j, k) * at(j, k);
    if (!(pivot > 0)) {
      *info = static_cast<int>(j + 1);
      return CUSOLVER_STATUS_SUCCESS;
    }
    at(j, j) = std::sqrt(pivot);
    for (std::int64_t i = j + 1; i < n; ++i) {
      double value = at(i, j);
      for (std::int64_t k = 0; k < j; ++k) value -= at(i, k) * at(j, k);
      at(i, j) = value / at(j, j);
    }
  }
  return CUSOLVER_STATUS_SUCCESS;
}
