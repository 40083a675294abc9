// The step of the search for any processor: the vectors are arrays.
#include <algorithm>

#include "core/simd.hpp"
#include "quant/trellis/kernels.hpp"

#define QUIP_TARGET

namespace quip::trellis {
namespace {

/// Applies a function to the lanes of two vectors.
template <typename Vector, typename F>
QUIP_INLINE Vector lanewise(const Vector& a, const Vector& b, F function) {
  Vector c;
  for (int i = 0; i < Vector::lanes; ++i) c.lane[i] = function(a.lane[i], b.lane[i]);
  return c;
}

struct Narrow {
  static constexpr int lanes = 8;
  static constexpr int group = 4;
  struct Vector {
    static constexpr int lanes = Narrow::lanes;
    std::uint16_t lane[lanes];
  };

  static int as_signed(std::uint16_t x) { return static_cast<std::int16_t>(x); }
  static Vector broadcast(std::int16_t x) {
    Vector a;
    std::fill_n(a.lane, lanes, static_cast<std::uint16_t>(x));
    return a;
  }
  static Vector load(const void* from) {
    Vector a;
    __builtin_memcpy(&a, from, sizeof(a));
    return a;
  }
  static QUIP_INLINE Vector add(const Vector& a, const Vector& b) {
    return lanewise(a, b, [](auto x, auto y) { return static_cast<std::uint16_t>(x + y); });
  }
  static QUIP_INLINE Vector subtract(const Vector& a, const Vector& b) {
    return lanewise(a, b, [](auto x, auto y) { return static_cast<std::uint16_t>(x - y); });
  }
  static QUIP_INLINE Vector subtract_saturating(const Vector& a, const Vector& b) {
    return lanewise(a, b, [](auto x, auto y) {
      return static_cast<std::uint16_t>(std::clamp(as_signed(x) - as_signed(y), -32768, 32767));
    });
  }
  static QUIP_INLINE Vector multiply_high(const Vector& a, const Vector& b) {
    return lanewise(a, b, [](auto x, auto y) {
      return static_cast<std::uint16_t>((as_signed(x) * as_signed(y)) >> 16);
    });
  }
  static QUIP_INLINE Vector multiply_high_rounding(const Vector& a, const Vector& b) {
    return lanewise(a, b, [](auto x, auto y) {
      return static_cast<std::uint16_t>((as_signed(x) * as_signed(y) + (1 << 14)) >> 15);
    });
  }
  static QUIP_INLINE Vector min(const Vector& a, const Vector& b) {
    return lanewise(a, b, [](auto x, auto y) { return std::min(x, y); });
  }
  static std::uint16_t least(const Vector& a) { return *std::min_element(a.lane, a.lane + lanes); }

  /// Stores x[r], lane l as the cost of node l·2^Bits + r.
  template <int Bits>
  static void store_interleaved(const Vector* x, std::uint16_t* out) {
    for (int l = 0; l < lanes; ++l) {
      for (int r = 0; r < 1 << Bits; ++r) out[(l << Bits) + r] = x[r].lane[l];
    }
  }
};

struct Wide {
  static constexpr int lanes = 4;
  struct Vector {
    static constexpr int lanes = Wide::lanes;
    std::uint32_t lane[lanes];
  };

  static Vector broadcast(std::uint32_t x) {
    Vector a;
    std::fill_n(a.lane, lanes, x);
    return a;
  }
  static Vector load(const void* from) {
    Vector a;
    __builtin_memcpy(&a, from, sizeof(a));
    return a;
  }
  static void store(void* to, const Vector& a) { __builtin_memcpy(to, &a, sizeof(a)); }
  static QUIP_INLINE Vector add(const Vector& a, const Vector& b) {
    return lanewise(a, b, [](auto x, auto y) { return x + y; });
  }
  static QUIP_INLINE Vector min(const Vector& a, const Vector& b) {
    return lanewise(a, b, [](auto x, auto y) { return std::min(x, y); });
  }
  static QUIP_INLINE Vector subtract_halves(const Vector& a, const Vector& b) {
    return lanewise(a, b, [](auto x, auto y) { return (x - y) & 0xffffU; });
  }
  static QUIP_INLINE Vector square_halves(const Vector& a) {
    return lanewise(a, a, [](auto x, auto y) {
      return static_cast<std::uint32_t>(static_cast<std::int16_t>(x) *
                                        static_cast<std::int16_t>(y));
    });
  }
  static std::uint32_t least(const Vector& a) { return *std::min_element(a.lane, a.lane + lanes); }
};

#include "quant/trellis/step.inc"

constexpr Kernels make_kernels() {
  Kernels kernels;
  kernels.name = "generic";
  kernels.lanes = Narrow::lanes;
  kernels.lane_bit = {{{}, {0, 1, 2}, {0, 1, 2}, {0, 1, 2}, {0, 1, 2}}};
  fill_steps(kernels);
  return kernels;
}

}  // namespace

const Kernels& generic_kernels() {
  static constexpr Kernels kernels = make_kernels();
  return kernels;
}

}  // namespace quip::trellis
