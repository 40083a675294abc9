// The step of the search for AVX2.
#include "quant/trellis/kernels.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

#include "core/simd.hpp"

#define QUIP_TARGET __attribute__((target("avx2")))

namespace quip::trellis {
namespace {

struct Narrow {
  using Vector = __m256i;
  static constexpr int lanes = 16;
  static constexpr int group = 8;  // of 16 registers

  QUIP_TARGET static QUIP_INLINE Vector broadcast(std::int16_t x) { return _mm256_set1_epi16(x); }
  QUIP_TARGET static QUIP_INLINE Vector load(const void* from) {
    return _mm256_load_si256(static_cast<const __m256i*>(from));
  }
  QUIP_TARGET static QUIP_INLINE Vector add(Vector a, Vector b) { return _mm256_add_epi16(a, b); }
  QUIP_TARGET static QUIP_INLINE Vector subtract(Vector a, Vector b) {
    return _mm256_sub_epi16(a, b);
  }
  QUIP_TARGET static QUIP_INLINE Vector subtract_saturating(Vector a, Vector b) {
    return _mm256_subs_epi16(a, b);
  }
  QUIP_TARGET static QUIP_INLINE Vector multiply_high(Vector a, Vector b) {
    return _mm256_mulhi_epi16(a, b);
  }
  QUIP_TARGET static QUIP_INLINE Vector multiply_high_rounding(Vector a, Vector b) {
    return _mm256_mulhrs_epi16(a, b);
  }
  QUIP_TARGET static QUIP_INLINE Vector min(Vector a, Vector b) { return _mm256_min_epu16(a, b); }
  QUIP_TARGET static QUIP_INLINE Vector add_saturating(Vector a, Vector b) {
    return _mm256_adds_epi16(a, b);
  }
  QUIP_TARGET static QUIP_INLINE void store(void* to, Vector a) {
    _mm256_store_si256(static_cast<__m256i*>(to), a);
  }
  QUIP_TARGET static QUIP_INLINE Vector add_saturating_unsigned(Vector a, Vector b) {
    return _mm256_adds_epu16(a, b);
  }
  /// Returns the upper bytes alone, and the lower ones moved up.
  QUIP_TARGET static QUIP_INLINE Vector upper_bytes(Vector a) {
    return _mm256_and_si256(a, _mm256_set1_epi16(-256));
  }
  QUIP_TARGET static QUIP_INLINE Vector lower_bytes(Vector a) { return _mm256_slli_epi16(a, 8); }
  /// Returns `a` with the upper bytes of `upper`.
  QUIP_TARGET static QUIP_INLINE Vector with_upper_bytes(Vector a, Vector upper) {
    return _mm256_blendv_epi8(a, upper, _mm256_set1_epi16(-256));
  }
  QUIP_TARGET static QUIP_INLINE Vector clamp(Vector a, Vector low, Vector high) {
    return _mm256_min_epi16(_mm256_max_epi16(a, low), high);
  }
  QUIP_TARGET static QUIP_INLINE Vector shift_right(Vector a, int bits) {
    return _mm256_srli_epi16(a, bits);
  }
  /// Loads the 32 bits at `from` + Unit · index bytes.
  template <int Unit>
  QUIP_TARGET static QUIP_INLINE void gather_pairs(const void* from, Vector index, Vector* low,
                                                   Vector* high) {
    const Vector zero = broadcast(0);
    const Vector mask = _mm256_set1_epi32(0xffff);
    const Vector a = _mm256_i32gather_epi32(static_cast<const int*>(from),
                                            _mm256_unpacklo_epi16(index, zero), Unit);
    const Vector b = _mm256_i32gather_epi32(static_cast<const int*>(from),
                                            _mm256_unpackhi_epi16(index, zero), Unit);
    *low = _mm256_packus_epi32(_mm256_and_si256(a, mask), _mm256_and_si256(b, mask));
    *high = _mm256_packus_epi32(_mm256_srli_epi32(a, 16), _mm256_srli_epi32(b, 16));
  }
  QUIP_TARGET static QUIP_INLINE void store_words(std::uint32_t* to, const Vector* halves) {
    const Vector a = _mm256_unpacklo_epi16(halves[0], halves[1]);
    const Vector b = _mm256_unpackhi_epi16(halves[0], halves[1]);
    store(to, _mm256_permute2x128_si256(a, b, 0x20));
    store(to + 8, _mm256_permute2x128_si256(a, b, 0x31));
  }
  using Mask = Vector;
  QUIP_TARGET static QUIP_INLINE Mask less(Vector a, Vector b) {
    const Vector flip = _mm256_set1_epi16(-32768);  // there is no unsigned comparison
    return _mm256_cmpgt_epi16(_mm256_xor_si256(b, flip), _mm256_xor_si256(a, flip));
  }
  QUIP_TARGET static QUIP_INLINE Vector choose(Mask mask, Vector yes, Vector no) {
    return _mm256_blendv_epi8(no, yes, mask);
  }
  QUIP_TARGET static std::uint16_t least(Vector a) {
    const __m128i b = _mm_min_epu16(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    return static_cast<std::uint16_t>(_mm_extract_epi16(_mm_minpos_epu16(b), 0));
  }

  /// Exchanges bit `Bit` of the number of a vector with a bit of the lane's: Unit 16, 32 and 64
  /// take bit 2 of the lane and move those below it up to make room at units of that width, 128
  /// takes bit 3.
  template <int Bit, int Unit, int Count>
  QUIP_TARGET static QUIP_INLINE void exchange(Vector* x) {
#pragma GCC unroll 16
    for (int i = 0; i < Count; ++i) {
      if ((i & Bit) != 0) continue;
      const Vector a = x[i];
      const Vector b = x[i | Bit];
      if constexpr (Unit == 16) {
        x[i] = _mm256_unpacklo_epi16(a, b);
        x[i | Bit] = _mm256_unpackhi_epi16(a, b);
      } else if constexpr (Unit == 32) {
        x[i] = _mm256_unpacklo_epi32(a, b);
        x[i | Bit] = _mm256_unpackhi_epi32(a, b);
      } else if constexpr (Unit == 64) {
        x[i] = _mm256_unpacklo_epi64(a, b);
        x[i | Bit] = _mm256_unpackhi_epi64(a, b);
      } else {
        x[i] = _mm256_permute2x128_si256(a, b, 0x20);
        x[i | Bit] = _mm256_permute2x128_si256(a, b, 0x31);
      }
    }
  }

  /// Stores x[r], lane l as that of node l·2^Bits + r, in the order of `lane_bit`, each vector
  /// `stride` elements after the one before.
  template <int Bits>
  QUIP_TARGET static QUIP_INLINE void store_interleaved(Vector* x, std::uint16_t* out,
                                                        index_t stride) {
    constexpr int count = 1 << Bits;
    if constexpr (Bits == 1) {
      exchange<1, 16, count>(x);
      exchange<1, 128, count>(x);
    } else if constexpr (Bits == 2) {
      exchange<1, 16, count>(x);
      exchange<2, 32, count>(x);
      exchange<2, 128, count>(x);
    } else if constexpr (Bits == 3) {
      exchange<1, 16, count>(x);
      exchange<4, 32, count>(x);
      exchange<2, 128, count>(x);
    } else {
      exchange<1, 16, count>(x);
      exchange<2, 32, count>(x);
      exchange<4, 64, count>(x);
      exchange<8, 128, count>(x);
    }
    constexpr int place[5][4] = {{}, {0}, {0, 1}, {2, 0, 1}, {2, 1, 0, 3}};
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i) {
      int block = 0;
#pragma GCC unroll 4
      for (int k = 0; k < Bits; ++k) block |= ((i >> k) & 1) << place[Bits][k];
      _mm256_store_si256(reinterpret_cast<__m256i*>(out + block * stride), x[i]);
    }
  }
};

struct Wide {
  using Vector = __m256i;
  static constexpr int lanes = 8;

  QUIP_TARGET static QUIP_INLINE Vector broadcast(std::uint32_t x) {
    return _mm256_set1_epi32(static_cast<int>(x));
  }
  QUIP_TARGET static QUIP_INLINE Vector load(const void* from) {
    return _mm256_load_si256(static_cast<const __m256i*>(from));
  }
  QUIP_TARGET static QUIP_INLINE void store(void* to, Vector a) {
    _mm256_store_si256(static_cast<__m256i*>(to), a);
  }
  QUIP_TARGET static QUIP_INLINE Vector add(Vector a, Vector b) { return _mm256_add_epi32(a, b); }
  QUIP_TARGET static QUIP_INLINE Vector min(Vector a, Vector b) { return _mm256_min_epu32(a, b); }
  QUIP_TARGET static QUIP_INLINE Vector subtract_halves(Vector a, Vector b) {
    return _mm256_sub_epi16(a, b);
  }
  QUIP_TARGET static QUIP_INLINE Vector square_halves(Vector a) { return _mm256_madd_epi16(a, a); }
  QUIP_TARGET static std::uint32_t least(Vector a) {
    __m128i b = _mm_min_epu32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    b = _mm_min_epu32(b, _mm_shuffle_epi32(b, 0x4e));
    b = _mm_min_epu32(b, _mm_shuffle_epi32(b, 0xb1));
    return static_cast<std::uint32_t>(_mm_cvtsi128_si32(b));
  }
};

#include "quant/trellis/step.inc"

constexpr Kernels make_kernels() {
  Kernels kernels;
  kernels.name = "avx2";
  kernels.lanes = Narrow::lanes;
  kernels.lane_bit = {{{}, {0, 1, 2, 3}, {0, 1, 2, 3}, {0, 3, 1, 2}, {0, 1, 2, 3}}};
  fill_steps(kernels);
  return kernels;
}

}  // namespace

const Kernels* avx2_kernels() {
  static constexpr Kernels kernels = make_kernels();
  return __builtin_cpu_supports("avx2") ? &kernels : nullptr;
}

}  // namespace quip::trellis

#else

namespace quip::trellis {
const Kernels* avx2_kernels() { return nullptr; }
}  // namespace quip::trellis

#endif
