// The kernels that the BLAS uses on this processor.
#include <cstdlib>
#include <string_view>
#include <unistd.h>

#include <cblas.h>

#include "quip/linalg/blas.hpp"

namespace quip {
namespace {

/// True if `kernels` are OpenBLAS's fallback, those without AVX.
bool is_fallback(std::string_view kernels) {
  return kernels == "Prescott" || kernels == "Core2" || kernels == "Nehalem";
}

/// Returns the best kernels of OpenBLAS ≥ 0.3 for this processor; null if the fallback is right.
const char* fitting_kernels() {
#if defined(__x86_64__)
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  if (avx512) return "SkylakeX";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "Haswell";
#endif
  return nullptr;
}

}  // namespace

const char* blas_kernel_name() { return openblas_get_corename(); }

void restart_with_fitting_blas_kernels(char** argv) {
  constexpr const char* choice = "OPENBLAS_CORETYPE";
  const char* kernels = fitting_kernels();
  if (kernels == nullptr || !is_fallback(blas_kernel_name())) return;
  // The variable also keeps a second start from being followed by a third.
  if (std::getenv(choice) != nullptr || setenv(choice, kernels, 0) != 0) return;
  execv("/proc/self/exe", argv);
  unsetenv(choice);  // no second start: goes on, and `describe` names the kernels
}

}  // namespace quip
