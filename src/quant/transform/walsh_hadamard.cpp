// Compiled with -ffp-contract=off: a sum of scaled elements must not become a multiply-add in one
// clone or in the vectors only.
#include "walsh_hadamard.hpp"

#include "core/simd.hpp"

namespace quip {
namespace {

// Unaligned vectors of 64 bytes; the compiler lowers them to the target's.
template <typename T>
using Vector [[gnu::vector_size(64), gnu::aligned(sizeof(T)), gnu::may_alias]] = T;

/// Does the levels of a transform of order Radix on values in registers.
template <int Radix, typename V>
[[gnu::always_inline]] inline void butterflies(V (&v)[Radix]) {
#pragma GCC unroll 3
  for (int stride = Radix / 2; stride > 0; stride /= 2) {
#pragma GCC unroll 8
    for (int r = 0; r < Radix; ++r) {
      if ((r & stride) != 0) continue;
      const V sum = v[r] + v[r + stride];
      v[r + stride] = v[r] - v[r + stride];
      v[r] = sum;
    }
  }
}

/// Transforms element(s) of type V at the same place of all streams.
template <int Radix, bool Before, bool After, typename V, typename T>
[[gnu::always_inline]] inline void step(const T* in, index_t in_step, T* out, index_t out_step,
                                        const T* before, const T* after) {
  V v[Radix];
#pragma GCC unroll 8
  for (int r = 0; r < Radix; ++r) {
    v[r] = *reinterpret_cast<const V*>(in + r * in_step);
    if constexpr (Before) v[r] = v[r] * before[r];
  }
  butterflies<Radix>(v);
#pragma GCC unroll 8
  for (int r = 0; r < Radix; ++r) {
    if constexpr (After) v[r] = v[r] * after[r];
    *reinterpret_cast<V*>(out + r * out_step) = v[r];
  }
}

constexpr index_t rows_ahead = 4;

/// Prefetches the elements of all streams that are `ahead` from here; none if that is 0.
template <int Radix>
[[gnu::always_inline]] inline void prefetch(const void* here, index_t step, index_t ahead) {
  if (ahead == 0) return;
#pragma GCC unroll 8
  for (int r = 0; r < Radix; ++r) {
    __builtin_prefetch(static_cast<const char*>(here) + r * step + ahead, 1, 3);
  }
}

template <int Radix, bool Before, bool After, typename T>
[[gnu::always_inline]] inline void run_rows(const WalshPass<T>& p) {
  constexpr index_t size = sizeof(T);
  constexpr index_t width = 64 / size;
  T before[Radix];
  T after[Radix];
  for (index_t i = 0; i < p.rows; ++i) {
    for (int r = 0; r < Radix; ++r) {
      if constexpr (Before) before[r] = static_cast<T>(p.before[r * p.rows + i]);
      if constexpr (After) after[r] = static_cast<T>(p.after[r * p.rows + i]);
    }
    const T* in = p.in + i * p.in_ld;
    T* out = p.out + i * p.out_ld;
    // Rows far apart are no stream to the processor.
    const bool more = i + rows_ahead < p.rows;
    const index_t in_ahead = more && p.in_ld != p.cols ? rows_ahead * p.in_ld * size : 0;
    const index_t out_ahead =
        more && p.out_ld != p.cols && out != in ? rows_ahead * p.out_ld * size : 0;
    index_t j = 0;
    for (; j + width <= p.cols; j += width) {
      prefetch<Radix>(in + j, p.in_step * size, in_ahead);
      prefetch<Radix>(out + j, p.out_step * size, out_ahead);
      step<Radix, Before, After, Vector<T>>(in + j, p.in_step, out + j, p.out_step, before, after);
    }
    for (; j < p.cols; ++j) {
      step<Radix, Before, After, T>(in + j, p.in_step, out + j, p.out_step, before, after);
    }
  }
}

template <int Radix, typename T>
[[gnu::always_inline]] inline void run_radix(const WalshPass<T>& p) {
  if (p.before != nullptr) {
    p.after != nullptr ? run_rows<Radix, true, true>(p) : run_rows<Radix, true, false>(p);
  } else {
    p.after != nullptr ? run_rows<Radix, false, true>(p) : run_rows<Radix, false, false>(p);
  }
}

template <typename T>
[[gnu::always_inline]] inline void run(WalshPass<T> p) {
  if (p.in_ld == p.cols && p.out_ld == p.cols && p.before == nullptr && p.after == nullptr) {
    p.cols *= p.rows;  // one long row
    p.in_ld = p.out_ld = p.cols;
    p.rows = 1;
  }
  switch (p.radix) {
    case 8:
      return run_radix<8>(p);
    case 4:
      return run_radix<4>(p);
    case 2:
      return run_radix<2>(p);
    default:
      return run_radix<1>(p);
  }
}

}  // namespace

QUIP_SIMD void run_pass(const WalshPass<float>& pass) { run(pass); }
QUIP_SIMD void run_pass(const WalshPass<double>& pass) { run(pass); }

}  // namespace quip
