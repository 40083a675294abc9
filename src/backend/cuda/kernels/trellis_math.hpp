// Costs of 16 bits, two to a word, and the cost of a step in floating-point operations that give
// the integers of quant/trellis/scaling: distance_cost.
#pragma once

#include "backend/cuda/kernel.hpp"
#include "quant/trellis/scaling.hpp"
#include "trellis_shape.hpp"

namespace quip::cuda {

/// Half-words of `a` and `b`, of which bytes 0 to 3 and 4 to 7 are counted.
inline constexpr unsigned both_low = 0x5410;
inline constexpr unsigned both_high = 0x7632;

__device__ inline std::uint32_t twice(std::uint32_t half_word) { return half_word * 0x10001U; }

/// Values are packed as v + 2¹⁵, so that such a half-word below the upper half of 2²³ is a number.
inline constexpr int packed_bias = 1 << 15;
inline constexpr float packed_origin = 8388608.0F + packed_bias;
__device__ inline float low_value(std::uint32_t pair) {
  return __uint_as_float(__byte_perm(pair, 0x4B00, 0x5410));
}
__device__ inline float high_value(std::uint32_t pair) {
  return __uint_as_float(__byte_perm(pair, 0x4B00, 0x5432));
}

/// The target of a step, as `distance_bits` takes it. All numbers here are integers times a power
/// of two, below 2²⁴: differences are exact.
template <int Bits>
struct StepTarget {
  float shift = 0;

  StepTarget() = default;
  __device__ explicit StepTarget(int target) : shift(packed_origin + static_cast<float>(target)) {}

  /// Returns a word whose bytes 1 and 2 hold ⌊(e² + 2¹⁴) / 2¹⁵⌋, e = target − value, with the upper
  /// bit set, which is the exponent's: the sum with 2³⁰ is cut off at 2⁷.
  [[nodiscard]] __device__ std::uint32_t distance_bits(float value) const {
    const float e = shift - value;
    return __float_as_uint(__fmaf_rz(e, e, 1073741824.0F + 16384.0F));
  }
};

template <>
struct StepTarget<narrow_search_bits> {
  float scale = 0;
  float start = 0;
  float center = 0;

  StepTarget() = default;
  /// e is at most 32767 where the target is positive, else at least −32768: a saturating operation
  /// is the cut, once 0 stands for that end.
  __device__ explicit StepTarget(int target) {
    constexpr float unit = 1.0F / 131072;
    const int end = target >= 0 ? 32767 : 32768;
    const float sign = target >= 0 ? 1.0F : -1.0F;
    scale = sign * unit;
    center = static_cast<float>(-end) * unit;
    start = (static_cast<float>(end) - sign * static_cast<float>(target)) * unit -
            sign * packed_origin * unit;
  }
  /// Returns a word whose bytes 1 and 2 hold ⌊e²/2¹⁶⌋.
  [[nodiscard]] __device__ std::uint32_t distance_bits(float value) const {
    const float e = __saturatef(fmaf(value, scale, start)) + center;
    return __float_as_uint(__fmaf_rz(e, e, 0.125F));
  }
};

/// Returns the costs of two steps.
__device__ inline std::uint32_t packed_distances(std::uint32_t first, std::uint32_t second) {
  return __byte_perm(first, second, 0x6521);
}

/// How a step of a walk treats costs. A distance of less than `narrow_search_bits` comes with its
/// upper bit turned: what is summed with it is ordered as signed numbers instead of unsigned ones,
/// or the other way round.
template <int Bits, bool Odd>
struct StepKind {
  static constexpr bool alternates = trellis::alternates(Bits);
  static constexpr bool turned = Bits < narrow_search_bits && !(alternates && Odd);
  static constexpr bool subtracts = !alternates || Odd;
  static constexpr bool finds_least = !alternates || !Odd;

  /// Half-word by half-word, min(a + b, c) in the order of the step's results.
  [[nodiscard]] __device__ static std::uint32_t add_min(std::uint32_t a, std::uint32_t b,
                                                        std::uint32_t c) {
    return turned ? __viaddmin_s16x2(a, b, c) : __viaddmin_u16x2(a, b, c);
  }
  static constexpr std::uint32_t most = turned ? 0x7fff7fffU : 0xffffffffU;

  /// Lowers costs before a step by the least of them, which is given as its negative.
  [[nodiscard]] __device__ static std::uint32_t lowered(std::uint32_t costs,
                                                        std::uint32_t negative) {
    if constexpr (!subtracts) return costs;
    constexpr std::uint32_t cut = Bits == narrow_search_bits ? trellis::highest_cut_cost : 0xffffU;
    return __viaddmin_u16x2(costs, negative, cut * 0x10001U);
  }
};

}  // namespace quip::cuda
