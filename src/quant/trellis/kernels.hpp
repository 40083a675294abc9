// One step of the search through a trellis, once per instruction set.
#pragma once

#include <array>
#include <cstdint>
#include <type_traits>

#include "quip/core/matrix.hpp"
#include "quip/quant/trellis/codebook.hpp"

namespace quip::trellis {

/// Up to this many bits costs are 16-bit integers, beyond it 32-bit ones.
constexpr int max_narrow_bits = 4;

/// True if costs are lowered every second step only, since a path takes many steps to any node and
/// so has small ones: steps of even number find the least cost, those of odd number subtract it.
constexpr bool alternates(int bits) { return bits <= 2; }

/// The cost of a path above which it is the same how dear it is, at max_narrow_bits: three steps
/// whose distances were cut off cost 1 more, and a fourth would overflow.
constexpr std::uint16_t highest_cut_cost = 0xffff - (1 << 14);

/// The type of a codebook's value in the table of a search with such costs. A 32-bit one holds the
/// value in its lower half and 0 in its upper one, as the instruction wants it that squares.
template <typename Cost>
using TableValue = std::conditional_t<sizeof(Cost) == 2, std::int16_t, std::int32_t>;

/// A step from costs of nodes to costs of nodes. A node is the part of a state that its successor
/// still holds, its lower 16 − bits bits, so state s = h·nodes + g leads from node
/// s >> bits = h·stems + (g >> bits) to node g, where stems = nodes >> bits:
///   out[g] = min over h of in[h·stems + (g >> bits)] − subtract + (target − value(h·nodes + g))².
template <typename Cost>
struct Step {
  const TableValue<Cost>* table = nullptr;
  const Cost* in = nullptr;
  Cost* out = nullptr;
  std::int16_t target = 0;
  Cost subtract = 0;
  // Which predecessors a step of a part takes, and the stems from which it starts, in positions.
  int first_h = 0;
  int last_h = 0;
  index_t first_stem = 0;
  index_t last_stem = 0;
};

/// Returns the least cost in `out`, or 0 if it leaves that to the step after it.
template <typename Cost>
using StepFunction = Cost (*)(const Step<Cost>& step);

template <typename Cost>
struct StepFunctions {
  StepFunction<Cost> even = nullptr;  ///< of all nodes, for steps of even number
  StepFunction<Cost> odd = nullptr;
  StepFunction<Cost> part = nullptr;  ///< of the predecessors that it is told; subtracts nothing
  /// A step of odd number and the one after it at once, so that the costs between them need not
  /// leave the innermost cache: the first one's `out` is null unless they are to be kept. Null if
  /// costs do not alternate: the least cost is known too late.
  Cost (*two)(const Step<Cost>& first, const Step<Cost>& second) = nullptr;
};

/// How many integers a feedback sum's unit is worth, and how many ones a factor's: sums and factors
/// may be that much larger than targets and 1.
constexpr int feedback_shift = 2;
/// The feedback sums that a path carries: of two outputs, for each of 16 inputs.
constexpr int carried_sums = 32;
constexpr int tile_inputs = 16;

/// A step of the search with feedback inside the tile: paths differ in their targets. With the sum
/// f of the path to the predecessor, of which each vector of nodes has `carried_sums` in a row,
///   t = clamp(target + 4·f[own], ±limit), e = t − value(state), cost weight · e²,
/// and the best path's sums become f[j] + factor[j] · e for inputs j of the same output that are
/// still to come, and stay what they are for those of the other.
struct FeedbackStep : Step<std::uint16_t> {
  const std::int16_t* sums_in = nullptr;
  std::int16_t* sums_out = nullptr;
  std::uint16_t* winners = nullptr;  ///< gets the h of the predecessor on the best path
  std::int16_t limit = 0;
  std::int16_t weight = 0;  ///< 2¹⁵ is 1
  int own = 0;
  int fed_count = 0;
  int kept_count = 0;
  std::int8_t carried[carried_sums] = {};  ///< which sums are fed and, after them, kept
  std::int16_t factor[tile_inputs] = {};   ///< of those fed; 2¹³ is 1
};

/// Returns the least cost in `out`.
using FeedbackFunction = std::uint16_t (*)(const FeedbackStep& step);

struct FeedbackFunctions {
  FeedbackFunction whole = nullptr;  ///< of all nodes
  FeedbackFunction part = nullptr;   ///< of the predecessors that it is told
};

/// The kernels of an instruction set.
struct Kernels {
  const char* name = nullptr;
  /// Width of a vector of 16-bit costs: the table for narrow costs has the values of stem block k
  /// (`lanes` positions), predecessor h and last symbol r at ((k·2^bits + h)·2^bits + r)·lanes. The
  /// one for wide costs is in the order of states.
  int lanes = 1;
  /// lane_bit[bits][k]: the bit of a position in which bit k of a node stands. Positions differ
  /// from nodes in their lowest bits only, log₂(lanes) of them, and not at all where costs are
  /// wide.
  std::array<std::array<std::int8_t, 5>, max_narrow_bits + 1> lane_bit = {};
  StepFunctions<std::uint16_t> narrow[max_narrow_bits + 1];
  StepFunctions<std::uint32_t> wide[max_bits + 1];
  FeedbackFunctions feedback[max_narrow_bits + 1];
};

/// Returns null where the build or the processor lacks it.
[[nodiscard]] const Kernels* avx512_kernels();
[[nodiscard]] const Kernels* avx2_kernels();
/// Those for any processor.
[[nodiscard]] const Kernels& generic_kernels();

}  // namespace quip::trellis
