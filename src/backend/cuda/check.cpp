#include "check.hpp"

#include <string_view>

#include "quip/core/error.hpp"

namespace quip::cuda {
namespace {

[[noreturn]] void report(std::string_view call, std::string_view text, std::string_view file,
                         int line) {
  const std::string_view name = file.substr(file.find_last_of('/') + 1);
  fail("GPU: {} failed: {} ({}:{}); --backend cpu works without it", call.substr(0, call.find('(')),
       text, name, line);
}

}  // namespace

void check(cudaError_t code, const char* call, const char* file, int line) {
  if (code != cudaSuccess) report(call, cudaGetErrorString(code), file, line);
}

void check(cublasStatus_t code, const char* call, const char* file, int line) {
  if (code != CUBLAS_STATUS_SUCCESS) report(call, cublasLtGetStatusString(code), file, line);
}

void check(cusolverStatus_t code, const char* call, const char* file, int line) {
  if (code != CUSOLVER_STATUS_SUCCESS) {
    report(call, fmt::format("cuSOLVER status {}", static_cast<int>(code)), file, line);
  }
}

}  // namespace quip::cuda
