// The step of the search for any processor: vectors of the compiler's.
#include <algorithm>
#include <cstring>

#include "core/simd.hpp"
#include "quant/trellis/kernels.hpp"

#define QUIP_TARGET

namespace quip::trellis {
namespace {

template <typename T, int Count>
using Lanes [[gnu::vector_size(Count * sizeof(T))]] = T;

struct Narrow {
  static constexpr int lanes = 4;  // whose products fill a vector of 16 bytes
  static constexpr int group = 8;
  using Vector = Lanes<std::uint16_t, lanes>;
  using Signed = Lanes<std::int16_t, lanes>;
  using Product = Lanes<std::int32_t, lanes>;

  static QUIP_INLINE Product widened(Vector a) {
    return __builtin_convertvector(reinterpret_cast<Signed>(a), Product);
  }
  static QUIP_INLINE Vector narrowed(Product a) { return __builtin_convertvector(a, Vector); }

  static QUIP_INLINE Vector broadcast(std::int16_t x) {
    return Vector{} + static_cast<std::uint16_t>(x);
  }
  static QUIP_INLINE Vector load(const void* from) { return *static_cast<const Vector*>(from); }
  static QUIP_INLINE Vector add(Vector a, Vector b) { return a + b; }
  static QUIP_INLINE Vector subtract(Vector a, Vector b) { return a - b; }
  static QUIP_INLINE Vector cut(Product e) {
    const Product above = e > 32767 ? Product{} + 32767 : e;
    return narrowed(above < -32768 ? Product{} - 32768 : above);
  }
  static QUIP_INLINE Vector subtract_saturating(Vector a, Vector b) {
    return cut(widened(a) - widened(b));
  }
  static QUIP_INLINE Vector multiply_high(Vector a, Vector b) {
    return narrowed((widened(a) * widened(b)) >> 16);
  }
  static QUIP_INLINE Vector multiply_high_rounding(Vector a, Vector b) {
    return narrowed((widened(a) * widened(b) + (1 << 14)) >> 15);
  }
  static QUIP_INLINE Vector min(Vector a, Vector b) { return a < b ? a : b; }
  static QUIP_INLINE Vector add_saturating(Vector a, Vector b) {
    return cut(widened(a) + widened(b));
  }
  static QUIP_INLINE void store(void* to, Vector a) { *static_cast<Vector*>(to) = a; }
  static QUIP_INLINE Vector add_saturating_unsigned(Vector a, Vector b) {
    const Vector sum = a + b;
    return sum < a ? Vector{} + 0xffff : sum;
  }
  /// Returns the upper bytes alone, and the lower ones moved up.
  static QUIP_INLINE Vector upper_bytes(Vector a) { return a & 0xff00; }
  static QUIP_INLINE Vector lower_bytes(Vector a) { return a << 8; }
  /// Returns `a` with the upper bytes of `upper`.
  static QUIP_INLINE Vector with_upper_bytes(Vector a, Vector upper) {
    return (upper & 0xff00) | (a & 0xff);
  }
  static QUIP_INLINE Vector clamp(Vector a, Vector low, Vector high) {
    const auto x = reinterpret_cast<Signed>(a);
    const auto least = reinterpret_cast<Signed>(low);
    const auto most = reinterpret_cast<Signed>(high);
    const Signed raised = x < least ? least : x;
    return reinterpret_cast<Vector>(raised < most ? raised : most);
  }
  static QUIP_INLINE Vector shift_right(Vector a, int bits) { return a >> bits; }
  /// Loads the 32 bits at `from` + Unit · index bytes.
  template <int Unit>
  static QUIP_INLINE void gather_pairs(const void* from, Vector index, Vector* low, Vector* high) {
    alignas(Vector) std::uint16_t halves[2][lanes];
    for (int i = 0; i < lanes; ++i) {
      std::uint16_t pair[2];
      std::memcpy(pair, static_cast<const char*>(from) + Unit * index[i], sizeof pair);
      halves[0][i] = pair[0];
      halves[1][i] = pair[1];
    }
    *low = load(halves[0]);
    *high = load(halves[1]);
  }
  static QUIP_INLINE void store_words(std::uint32_t* to, const Vector* halves) {
    for (int i = 0; i < lanes; ++i) to[i] = std::uint32_t{halves[1][i]} << 16 | halves[0][i];
  }
  using Mask = Vector;  // 0 is false
  static QUIP_INLINE Mask less(Vector a, Vector b) { return reinterpret_cast<Mask>(a < b); }
  static QUIP_INLINE Vector choose(Mask mask, Vector yes, Vector no) {
    return (yes & mask) | (no & ~mask);
  }
  static std::uint16_t least(Vector a) {
    std::uint16_t least = a[0];
    for (int i = 1; i < lanes; ++i) least = std::min<std::uint16_t>(least, a[i]);
    return least;
  }

  /// Stores x[r], lane l as that of node l·2^Bits + r, each vector `stride` elements
  /// after the one before.
  template <int Bits>
  static QUIP_INLINE void store_interleaved(const Vector* x, std::uint16_t* out, index_t stride) {
    for (int l = 0; l < lanes; ++l) {
      for (int r = 0; r < 1 << Bits; ++r) {
        const int i = (l << Bits) + r;
        out[i / lanes * stride + i % lanes] = x[r][l];
      }
    }
  }
};

struct Wide {
  static constexpr int lanes = 4;
  using Vector = Lanes<std::uint32_t, lanes>;
  using Signed = Lanes<std::int32_t, lanes>;

  static QUIP_INLINE Vector broadcast(std::uint32_t x) { return Vector{} + x; }
  static QUIP_INLINE Vector load(const void* from) { return *static_cast<const Vector*>(from); }
  static QUIP_INLINE void store(void* to, Vector a) { *static_cast<Vector*>(to) = a; }
  static QUIP_INLINE Vector add(Vector a, Vector b) { return a + b; }
  static QUIP_INLINE Vector min(Vector a, Vector b) { return a < b ? a : b; }
  /// The upper halves are 0, and their difference is ignored by the square.
  static QUIP_INLINE Vector subtract_halves(Vector a, Vector b) { return a - b; }
  static QUIP_INLINE Vector square_halves(Vector a) {
    const Signed e = reinterpret_cast<Signed>(a << 16) >> 16;
    return reinterpret_cast<Vector>(e * e);
  }
  static std::uint32_t least(Vector a) {
    return std::min(std::min(a[0], a[1]), std::min(a[2], a[3]));
  }
};

#include "quant/trellis/step.inc"

constexpr Kernels make_kernels() {
  Kernels kernels;
  kernels.name = "generic";
  kernels.lanes = Narrow::lanes;
  kernels.lane_bit = {{{}, {0, 1}, {0, 1}, {0, 1}, {0, 1}}};
  fill_steps(kernels);
  return kernels;
}

}  // namespace

const Kernels& generic_kernels() {
  static constexpr Kernels kernels = make_kernels();
  return kernels;
}

}  // namespace quip::trellis
