// The innermost product of the exact Hessian, once per instruction set.
#pragma once

#include <cstdint>

#include "quip/core/matrix.hpp"

namespace quip::cpu {

/// The side, in channels, of the block that a kernel computes at a time: two groups of Int8Slices.
constexpr index_t block_side = 32;

/// A kernel, which keeps state in the processor between `begin` and `end`, per thread.
struct Int8Kernel {
  void (*begin)();
  /// c = Σ_t aᵀb, or c += if `accumulate`; c [32 × 32] row-major, int32. `left` and `right` are
  /// the tiles of two groups, `steps` tiles each; left_sums[i] = Σ_t a[t, i].
  void (*multiply)(const std::int8_t* left, const std::int8_t* right, index_t steps,
                   const std::int32_t* left_sums, bool accumulate, std::int32_t* c);
  void (*end)();
};

/// Returns null where the build, the processor or the operating system lacks it.
[[nodiscard]] const Int8Kernel* amx_kernel();
[[nodiscard]] const Int8Kernel* vnni_kernel();

}  // namespace quip::cpu
