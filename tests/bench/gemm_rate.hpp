// The yardstick of every benchmark: what this machine's gemm does, now.
#pragma once

#include <algorithm>
#include <chrono>
#include <limits>

#include "quip/backend/backend.hpp"
#include "quip/linalg/blas.hpp"

namespace quip {

/// Wall seconds of one call, the best of `repeats`.
template <typename Work>
double best_seconds(int repeats, const Work& work) {
  using clock = std::chrono::steady_clock;
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < repeats; ++i) {
    const auto start = clock::now();
    work();
    best = std::min(best, std::chrono::duration<double>(clock::now() - start).count());
  }
  return best;
}

/// Flop per second of square sgemms of order 2048, one on each of the backend's `threads`.
inline double sgemm_rate(Backend& backend, int threads) {
  constexpr index_t n = 2048;
  const Matrix<float> a(n, n, 0.5F);
  const Matrix<float> b(n, n, 0.25F);
  Matrix<float> c(threads * n, n, 0.0F);
  const double seconds = best_seconds(4, [&] {
    backend.for_each_unit(threads, [&](index_t unit) {
      gemm(Transpose::no, Transpose::yes, 1.0F, a.cview(), b.cview(), 0.0F,
           c.view().middle_rows(unit * n, n));
    });
  });
  return 2.0 * static_cast<double>(n * n * n) * threads / seconds;
}

}  // namespace quip
