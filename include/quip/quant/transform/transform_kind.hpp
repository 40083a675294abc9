// The kinds of orthogonal transforms, and their names.
#pragma once

#include <string>

#include "quip/core/matrix.hpp"

namespace quip {

enum class TransformKind {
  none,
  kronecker,            ///< P₁ (O₁ ⊗ O₂) P₂
  kronecker_blocked,    ///< a different small factor for every block
  kronecker_nopermute,  ///< O₁ ⊗ O₂
  hadamard,             ///< random signs, fast Walsh–Hadamard
  hadamard_128,         ///< the same for every 128 channels by themselves
  dense                 ///< Haar-distributed as a whole; small layers only
};

/// Prints it as users write it ("kronecker-blocked"). The parser throws Error listing the choices.
[[nodiscard]] std::string to_string(TransformKind kind);
[[nodiscard]] TransformKind parse_transform(const std::string& text);

/// Returns the least number of channels from n on that the kind suits: a multiple of 128 for
/// hadamard_128, else n.
[[nodiscard]] index_t padded(TransformKind kind, index_t n);

}  // namespace quip
