// The passes of a softmax over one row.
#pragma once

#include "quip/core/matrix.hpp"

namespace quip::cpu {

/// Returns max x, −∞ for n = 0; NaNs are ignored.
[[nodiscard]] float row_maximum(const float* x, index_t n);
/// x = exp(x − shift), in place; returns the sum. A NaN in x makes it NaN.
[[nodiscard]] float exponentiate(float* x, float shift, index_t n);
/// x = cap · tanh(x / cap), in place, to 2⁻²² of the cap.
void cap_softly(float* x, float cap, index_t n);

}  // namespace quip::cpu
