// Passes of the fast Walsh–Hadamard transform over slabs.
#pragma once

#include "quip/core/matrix.hpp"

namespace quip {

/// A few levels of the transform at once. Stream r (of `radix` = 1, 2, 4 or 8) is rows × cols
/// elements at in + r·in_step; an element of each meets in registers in log₂(radix) levels, the
/// largest stride first, and goes to the same place of the streams at out + r·out_step. `in` and
/// `out` may be the same streams.
template <typename T>
struct WalshPass {
  index_t radix = 1;
  index_t rows = 1;
  index_t cols = 0;
  const T* in = nullptr;
  index_t in_ld = 0;  ///< from row to row of a stream
  index_t in_step = 0;
  T* out = nullptr;
  index_t out_ld = 0;
  index_t out_step = 0;
  /// Row i of stream r is multiplied by before[r·rows + i] on input and by after[r·rows + i] on
  /// output; null: no factor.
  const double* before = nullptr;
  const double* after = nullptr;
};

void run_pass(const WalshPass<float>& pass);
void run_pass(const WalshPass<double>& pass);

/// Returns the number of streams that the next pass over 2^k = `order` rows takes: eight stay below
/// the associativity of the caches, whose strides are powers of two here.
constexpr index_t walsh_radix(index_t order) { return order % 8 == 0 ? 8 : order; }

}  // namespace quip
