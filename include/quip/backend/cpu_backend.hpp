// The CPU backend with the choice of its Hessian kernel: for tests and benchmarks.
#pragma once

#include <memory>
#include <string_view>

#include "quip/backend/backend.hpp"

namespace quip {

/// The ways to form the same exact sum of integers; all give the same bits.
enum class HessianKernel {
  best,       ///< the fastest that this processor has
  amx_int8,   ///< two 8-bit slices in AMX tiles
  vnni_int8,  ///< two 8-bit slices in AVX-512 VNNI
  float64,    ///< integers stored in doubles, any BLAS
};

/// Returns "amx-int8", "vnni-int8", "float64" or "best".
[[nodiscard]] std::string_view to_string(HessianKernel kernel);

/// True if this build, processor and operating system can run `kernel`.
[[nodiscard]] bool is_supported(HessianKernel kernel);

/// Makes the backend. Throws Error if `threads` < 1 or the kernel is not supported.
[[nodiscard]] std::unique_ptr<Backend> make_cpu_backend(int threads, HessianKernel kernel);

}  // namespace quip
