// Units of work side by side.
#pragma once

#include <functional>

#include "quip/core/matrix.hpp"

namespace quip {

/// Runs `work(i)` for 0 ≤ i < count on `threads` OpenMP threads, in any order. The exception of the
/// lowest failing unit is rethrown after all have ended.
void run_units(index_t count, int threads, const std::function<void(index_t)>& work);

}  // namespace quip
