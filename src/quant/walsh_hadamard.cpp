#include "walsh_hadamard.hpp"

#include "simd.hpp"

namespace quip {
namespace {

// Unaligned vectors of 64 bytes; the compiler lowers them to what the target has.
template <typename T>
using Vector [[gnu::vector_size(64), gnu::aligned(sizeof(T)), gnu::may_alias]] = T;

/// The levels of a transform of order Radix on values in registers.
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

/// One step of a pass: element(s) of type V at the same place of Radix streams.
template <int Radix, typename V, typename T>
[[gnu::always_inline]] inline void step(T* x, index_t length) {
  V v[Radix];
#pragma GCC unroll 8
  for (int r = 0; r < Radix; ++r) v[r] = *reinterpret_cast<const V*>(x + r * length);
  butterflies<Radix>(v);
#pragma GCC unroll 8
  for (int r = 0; r < Radix; ++r) *reinterpret_cast<V*>(x + r * length) = v[r];
}

/// log₂(Radix) levels at once: Radix streams of `length` elements.
template <int Radix, typename T>
[[gnu::always_inline]] inline void pass(T* x, index_t length) {
  constexpr index_t width = 64 / static_cast<index_t>(sizeof(T));
  index_t i = 0;
  for (; i + width <= length; i += width) step<Radix, Vector<T>>(x + i, length);
  for (; i < length; ++i) step<Radix, T>(x + i, length);
}

QUIP_MULTIARCH void pass8(float* x, index_t length) { pass<8>(x, length); }
QUIP_MULTIARCH void pass4(float* x, index_t length) { pass<4>(x, length); }
QUIP_MULTIARCH void pass2(float* x, index_t length) { pass<2>(x, length); }
QUIP_MULTIARCH void pass8(double* x, index_t length) { pass<8>(x, length); }
QUIP_MULTIARCH void pass4(double* x, index_t length) { pass<4>(x, length); }
QUIP_MULTIARCH void pass2(double* x, index_t length) { pass<2>(x, length); }

template <typename T>
void transform(T* x, index_t order, index_t length) {
  if (order == 1) return;
  // Eight streams stay below the associativity of the caches: strides are powers of two.
  const index_t radix = order % 8 == 0 ? 8 : order;
  const index_t part = order / radix * length;
  if (radix == 8) {
    pass8(x, part);
  } else if (radix == 4) {
    pass4(x, part);
  } else {
    pass2(x, part);
  }
  for (index_t r = 0; r < radix; ++r) transform(x + r * part, order / radix, length);
}

template <typename T>
[[gnu::always_inline]] inline void scale(T* x, const double* factor, index_t n, index_t c) {
  for (index_t i = 0; i < n; ++i) {
    const T value = static_cast<T>(factor[i]);
    for (index_t j = 0; j < c; ++j) x[i * c + j] *= value;
  }
}

}  // namespace

void walsh_hadamard(float* x, index_t order, index_t length) { transform(x, order, length); }
void walsh_hadamard(double* x, index_t order, index_t length) { transform(x, order, length); }

void walsh_butterfly(float* x, index_t length) { pass2(x, length); }

QUIP_MULTIARCH void walsh_sum(float* x, index_t length) {
#pragma omp simd
  for (index_t i = 0; i < length; ++i) x[i] += x[length + i];
}

QUIP_MULTIARCH void walsh_difference(float* x, index_t length) {
#pragma omp simd
  for (index_t i = 0; i < length; ++i) x[length + i] = x[i] - x[length + i];
}

QUIP_MULTIARCH void scale_rows(float* x, const double* factor, index_t n, index_t c) {
  scale(x, factor, n, c);
}
QUIP_MULTIARCH void scale_rows(double* x, const double* factor, index_t n, index_t c) {
  scale(x, factor, n, c);
}

}  // namespace quip
