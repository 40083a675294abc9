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

/// The search with feedback inside the tile takes the steps of a tile in quads: four inputs of one
/// output. What differs from path to path are four bytes a node, its slots, one for each input of
/// the quad. A slot holds the feedback sum of an input until its step, from then on its error.
/// Slots are 16-bit integers in two planes, which hold those of steps 0 and 1, and of steps 2 and
/// 3, the even one in the lower byte.
constexpr int quad_steps = 4;
constexpr int slot_planes = 2;
using SlotPlanes = std::array<std::int16_t*, slot_planes>;
using ConstSlotPlanes = std::array<const std::int16_t*, slot_planes>;

/// A slot's byte is the upper one of the error times 2^error_shift, cut off: some seven times the
/// root of its mean square.
constexpr int error_shift(int bits) { return bits <= 2 ? 2 : 3; }

/// A step in which paths differ in their targets. With the upper byte φ of the path's sum,
///   t = clamp(target + unit · φ, ±limit), e = t − value(state), cost weight · e²,
/// and slot j of a later step of the quad gets factor_j · e · 2^error_shift more.
struct FeedbackStep {
  const std::int16_t* table = nullptr;
  const std::uint16_t* costs_in = nullptr;
  std::uint16_t* costs_out = nullptr;
  ConstSlotPlanes slots_in{};
  SlotPlanes slots_out{};
  /// The state of the quad's first step on the path: the position of the node before it, and its
  /// symbol in the last bits. Before the first step the symbol is 0.
  const std::uint16_t* origins_in = nullptr;
  std::uint16_t* origins_out = nullptr;
  std::int16_t target = 0;
  std::int16_t limit = 0;
  std::int16_t weight = 0;                            ///< 2¹⁵ is 1
  std::int16_t unit = 0;                              ///< 2¹⁵ is 1
  std::array<std::int16_t, quad_steps - 1> factor{};  ///< 2¹⁵ is 1
  std::uint16_t subtract = 0;
  std::uint16_t highest = 0xffff;  ///< costs above it are cut off, at max_narrow_bits
};

/// Returns the least cost after the step.
using FeedbackFunction = std::uint16_t (*)(const FeedbackStep& step);

/// Takes the sums of a later quad along a path and adds what the errors of a quad bring:
///   out_j[g] = in_j[from[g]] + Σᵢ factor[i][j] · errorᵢ[g].
/// A word has the four slots of a node, as they stand in the planes.
struct FeedbackSums {
  const std::uint16_t* from = nullptr;  ///< positions of nodes
  const std::uint32_t* in = nullptr;    ///< null: 0
  ConstSlotPlanes errors{};
  std::int16_t factor[quad_steps][quad_steps] = {};  ///< 2¹⁵ is 1
  std::uint32_t* words_out = nullptr;                ///< null: they go to `slots_out`
  SlotPlanes slots_out{};
  index_t nodes = 0;
};

/// Functions that take the slots of all nodes from quad to quad.
struct SlotFunctions {
  void (*add_feedback)(const FeedbackSums& sums) = nullptr;
  /// Writes the slots of each node as a word.
  void (*to_words)(ConstSlotPlanes slots, index_t nodes, std::uint32_t* words) = nullptr;
  /// Writes the slots of the nodes from which paths come.
  void (*pick)(const std::uint32_t* words, const std::uint16_t* from, index_t nodes,
               SlotPlanes slots) = nullptr;
  /// Writes the positions of the nodes before a quad, or with `later` before that and another one:
  /// from[g] = origins[g] >> bits, or origins[later[g]] >> bits.
  void (*find_nodes)(const std::uint16_t* origins, const std::uint16_t* later, int bits,
                     index_t nodes, std::uint16_t* from) = nullptr;
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
  FeedbackFunction feedback[max_narrow_bits + 1][quad_steps] = {};  ///< by the step of the quad
  SlotFunctions slots;
};

/// Returns null where the build or the processor lacks it.
[[nodiscard]] const Kernels* avx512_kernels();
[[nodiscard]] const Kernels* avx2_kernels();
/// Those for any processor.
[[nodiscard]] const Kernels& generic_kernels();

}  // namespace quip::trellis
