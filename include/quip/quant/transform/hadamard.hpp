// Hadamard matrices, ±1 with orthogonal rows, and the signs of the transforms made of them.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "quip/core/matrix.hpp"
#include "quip/quant/transform/transform_kind.hpp"

namespace quip {

/// Returns a Hadamard matrix of order b by Paley's constructions: b = q+1 for a prime q ≡ 3 (mod
/// 4), or b = 2(q+1) for a prime q ≡ 1 (mod 4). Nothing where b has neither form.
[[nodiscard]] std::optional<Matrix<double>> paley_hadamard(index_t b);

/// n = walsh·order: a Walsh–Hadamard matrix of order `walsh` = 2^k times a factor of order `order`,
/// which is a Paley matrix if `paley`, else (order > 1) a random orthogonal one. The factor takes
/// in as many twos as the smallest Paley order of at most `most_paley_order` needs; where there is
/// none it is the odd part of n alone.
///
///   2048 = 2¹¹         5120 = 2⁸·20     11008 = 2⁸·43 r    18944 = 2⁷·148
///   3584 = 2⁷·28       5632 = 2⁷·44     13696 = 2⁷·107 r   27648 = 2⁸·108
///   4096 = 2¹²         6656 = 2⁶·104    13824 = 2⁷·108     28672 = 2¹⁰·28
///   4608 = 2⁷·36       8192 = 2¹³       14336 = 2⁹·28      53248 = 2⁹·104
///                                                          (r: random orthogonal)
struct HadamardShape {
  index_t walsh = 1;
  index_t order = 1;
  bool paley = false;

  static constexpr index_t most_paley_order = 256;
};
[[nodiscard]] HadamardShape hadamard_shape(index_t n);

/// The order of the blocks of hadamard_128, Q = (I ⊗ H₁₂₈)·diag(±1), where H₁₂₈ is Sylvester's
/// matrix / √128.
constexpr index_t hadamard_block = 128;

/// Returns the n random signs ±1 with which a Hadamard transform begins: those of
/// make_transform(kind, n, key, either side), kind hadamard or hadamard_128.
[[nodiscard]] std::vector<double> hadamard_signs(TransformKind kind, index_t n, std::uint64_t key);

}  // namespace quip
