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
  using Clock = std::chrono::steady_clock;
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < repeats; ++i) {
    const auto start = Clock::now();
    work();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
  }
  return best;
}

/// Flop per second of square gemms of order 2048 in T, one on each of the backend's `threads`.
template <typename T>
double gemm_rate(Backend& backend, int threads) {
  constexpr index_t n = 2048;
  const Matrix<T> a(n, n, T{1} / 2);
  const Matrix<T> b(n, n, T{1} / 4);
  Matrix<T> c(threads * n, n, T{0});
  const double seconds = best_seconds(4, [&] {
    backend.for_each_unit(threads, [&](index_t unit) {
      gemm(Transpose::no, Transpose::yes, T{1}, a.cview(), b.cview(), T{0},
           c.view().middle_rows(unit * n, n));
    });
  });
  return 2.0 * static_cast<double>(n * n * n) * threads / seconds;
}

inline double sgemm_rate(Backend& backend, int threads) {
  return gemm_rate<float>(backend, threads);
}

}  // namespace quip
