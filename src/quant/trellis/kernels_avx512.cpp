// The step of the search for AVX-512.
#include "quant/trellis/kernels.hpp"

#if defined(__x86_64__)
#if !defined(__clang__)
// gcc 12 takes the operand that its own intrinsics leave open for a mistake of ours (PR 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include "core/simd.hpp"

#define QUIP_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))

namespace quip::trellis {
namespace {

struct Narrow {
  using Vector = __m512i;
  static constexpr int lanes = 32;
  static constexpr int group = 16;

  QUIP_TARGET static QUIP_INLINE Vector broadcast(std::int16_t x) { return _mm512_set1_epi16(x); }
  QUIP_TARGET static QUIP_INLINE Vector load(const void* from) { return _mm512_load_si512(from); }
  QUIP_TARGET static QUIP_INLINE Vector add(Vector a, Vector b) { return _mm512_add_epi16(a, b); }
  QUIP_TARGET static QUIP_INLINE Vector subtract(Vector a, Vector b) {
    return _mm512_sub_epi16(a, b);
  }
  QUIP_TARGET static QUIP_INLINE Vector subtract_saturating(Vector a, Vector b) {
    return _mm512_subs_epi16(a, b);
  }
  QUIP_TARGET static QUIP_INLINE Vector multiply_high(Vector a, Vector b) {
    return _mm512_mulhi_epi16(a, b);
  }
  QUIP_TARGET static QUIP_INLINE Vector multiply_high_rounding(Vector a, Vector b) {
    return _mm512_mulhrs_epi16(a, b);
  }
  QUIP_TARGET static QUIP_INLINE Vector min(Vector a, Vector b) { return _mm512_min_epu16(a, b); }
  QUIP_TARGET static QUIP_INLINE Vector add_saturating(Vector a, Vector b) {
    return _mm512_adds_epi16(a, b);
  }
  QUIP_TARGET static QUIP_INLINE void store(void* to, Vector a) { _mm512_store_si512(to, a); }
  QUIP_TARGET static QUIP_INLINE Vector add_saturating_unsigned(Vector a, Vector b) {
    return _mm512_adds_epu16(a, b);
  }
  /// Returns the upper bytes alone, and the lower ones moved up.
  QUIP_TARGET static QUIP_INLINE Vector upper_bytes(Vector a) {
    return _mm512_and_si512(a, _mm512_set1_epi16(-256));
  }
  QUIP_TARGET static QUIP_INLINE Vector lower_bytes(Vector a) { return _mm512_slli_epi16(a, 8); }
  /// Returns `a` with the upper bytes of `upper`.
  QUIP_TARGET static QUIP_INLINE Vector with_upper_bytes(Vector a, Vector upper) {
    return _mm512_ternarylogic_epi32(_mm512_set1_epi16(-256), upper, a, 0xca);
  }
  QUIP_TARGET static QUIP_INLINE Vector clamp(Vector a, Vector low, Vector high) {
    return _mm512_min_epi16(_mm512_max_epi16(a, low), high);
  }
  QUIP_TARGET static QUIP_INLINE Vector shift_right(Vector a, int bits) {
    return _mm512_srli_epi16(a, bits);
  }
  /// Loads the 32 bits at `from` + Unit · index bytes.
  template <int Unit>
  QUIP_TARGET static QUIP_INLINE void gather_pairs(const void* from, Vector index, Vector* low,
                                                   Vector* high) {
    const Vector zero = broadcast(0);
    const Vector mask = _mm512_set1_epi32(0xffff);
    const Vector a = _mm512_i32gather_epi32(_mm512_unpacklo_epi16(index, zero), from, Unit);
    const Vector b = _mm512_i32gather_epi32(_mm512_unpackhi_epi16(index, zero), from, Unit);
    *low = _mm512_packus_epi32(_mm512_and_si512(a, mask), _mm512_and_si512(b, mask));
    *high = _mm512_packus_epi32(_mm512_srli_epi32(a, 16), _mm512_srli_epi32(b, 16));
  }
  QUIP_TARGET static QUIP_INLINE void store_words(std::uint32_t* to, const Vector* halves) {
    const Vector a = _mm512_unpacklo_epi16(halves[0], halves[1]);
    const Vector b = _mm512_unpackhi_epi16(halves[0], halves[1]);
    _mm512_store_si512(
        to, _mm512_permutex2var_epi64(a, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), b));
    _mm512_store_si512(
        to + 16, _mm512_permutex2var_epi64(a, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), b));
  }
  using Mask = __mmask32;
  QUIP_TARGET static QUIP_INLINE Mask less(Vector a, Vector b) {
    return _mm512_cmplt_epu16_mask(a, b);
  }
  QUIP_TARGET static QUIP_INLINE Vector choose(Mask mask, Vector yes, Vector no) {
    return _mm512_mask_blend_epi16(mask, no, yes);
  }
  QUIP_TARGET static std::uint16_t least(Vector a) {
    __m256i b = _mm256_min_epu16(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
    const __m128i c = _mm_min_epu16(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
    return static_cast<std::uint16_t>(_mm_extract_epi16(_mm_minpos_epu16(c), 0));
  }

  /// Exchanges bit `Bit` of the number of a vector with a bit of the lane's: Unit 16, 32 and 64
  /// take bit 2 of the lane and move those below it up to make room at units of that width, 128
  /// takes bit 3 and moves bit 4 down.
  template <int Bit, int Unit, int Count>
  QUIP_TARGET static QUIP_INLINE void exchange(Vector* x) {
#pragma GCC unroll 16
    for (int i = 0; i < Count; ++i) {
      if ((i & Bit) != 0) continue;
      const Vector a = x[i];
      const Vector b = x[i | Bit];
      if constexpr (Unit == 16) {
        x[i] = _mm512_unpacklo_epi16(a, b);
        x[i | Bit] = _mm512_unpackhi_epi16(a, b);
      } else if constexpr (Unit == 32) {
        x[i] = _mm512_unpacklo_epi32(a, b);
        x[i | Bit] = _mm512_unpackhi_epi32(a, b);
      } else if constexpr (Unit == 64) {
        x[i] = _mm512_unpacklo_epi64(a, b);
        x[i | Bit] = _mm512_unpackhi_epi64(a, b);
      } else {
        x[i] = _mm512_shuffle_i32x4(a, b, 0x88);
        x[i | Bit] = _mm512_shuffle_i32x4(a, b, 0xdd);
      }
    }
  }

  /// Stores x[r], lane l as that of node l·2^Bits + r, each vector `stride` elements after the one
  /// before. In the order of `lane_bit` one shuffle a vector and bit does it; a natural order would
  /// take up to twice as many.
  template <int Bits>
  QUIP_TARGET static QUIP_INLINE void store_interleaved(Vector* x, std::uint16_t* out,
                                                        index_t stride) {
    constexpr int count = 1 << Bits;
    if constexpr (Bits == 1) {
      exchange<1, 16, count>(x);
      exchange<1, 128, count>(x);
    } else if constexpr (Bits == 2) {
      exchange<1, 16, count>(x);
      exchange<2, 128, count>(x);
    } else if constexpr (Bits == 3) {
      exchange<1, 16, count>(x);
      exchange<4, 32, count>(x);
      exchange<2, 128, count>(x);
    } else {
      exchange<2, 16, count>(x);
      exchange<4, 32, count>(x);
      exchange<8, 64, count>(x);
      exchange<1, 128, count>(x);
    }
    constexpr int place[5][4] = {{}, {0}, {1, 0}, {1, 2, 0}, {3, 2, 1, 0}};
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i) {
      int block = 0;
#pragma GCC unroll 4
      for (int k = 0; k < Bits; ++k) block |= ((i >> k) & 1) << place[Bits][k];
      _mm512_store_si512(out + block * stride, x[i]);
    }
  }
};

struct Wide {
  using Vector = __m512i;
  static constexpr int lanes = 16;

  QUIP_TARGET static QUIP_INLINE Vector broadcast(std::uint32_t x) {
    return _mm512_set1_epi32(static_cast<int>(x));
  }
  QUIP_TARGET static QUIP_INLINE Vector load(const void* from) { return _mm512_load_si512(from); }
  QUIP_TARGET static QUIP_INLINE void store(void* to, Vector a) { _mm512_store_si512(to, a); }
  QUIP_TARGET static QUIP_INLINE Vector add(Vector a, Vector b) { return _mm512_add_epi32(a, b); }
  QUIP_TARGET static QUIP_INLINE Vector min(Vector a, Vector b) { return _mm512_min_epu32(a, b); }
  QUIP_TARGET static QUIP_INLINE Vector subtract_halves(Vector a, Vector b) {
    return _mm512_sub_epi16(a, b);
  }
  QUIP_TARGET static QUIP_INLINE Vector square_halves(Vector a) { return _mm512_madd_epi16(a, a); }
  QUIP_TARGET static std::uint32_t least(Vector a) { return _mm512_reduce_min_epu32(a); }
};

#include "quant/trellis/step.inc"

constexpr Kernels make_kernels() {
  Kernels kernels;
  kernels.name = "avx512";
  kernels.lanes = Narrow::lanes;
  kernels.lane_bit = {{{}, {0, 1, 2, 4, 3}, {0, 4, 1, 3, 2}, {0, 4, 1, 2, 3}, {4, 0, 1, 2, 3}}};
  fill_steps(kernels);
  return kernels;
}

}  // namespace

const Kernels* avx512_kernels() {
  static constexpr Kernels kernels = make_kernels();
  return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                 __builtin_cpu_supports("avx512dq")
             ? &kernels
             : nullptr;
}

}  // namespace quip::trellis

#else

namespace quip::trellis {
const Kernels* avx512_kernels() { return nullptr; }
}  // namespace quip::trellis

#endif
