// The flops of a block's forward pass. A multiply-add is two; norms, activations and the softmax
// are left out.
#pragma once

#include "quip/model/family.hpp"

namespace quip {

/// Returns those of one sample of `length` tokens in a stage (Family::advance): its linears, and in
/// stage 1 the attention that stands between taps 0 and 1.
[[nodiscard]] double stage_flops(const Family& family, index_t block, int stage, index_t length);

/// Returns those of all stages.
[[nodiscard]] double block_flops(const Family& family, index_t block, index_t length);

/// Returns those of the scores and weighted sums of one sample: only keys that a query sees count.
[[nodiscard]] double attention_flops(const ModelConfig& config, index_t block, index_t length);

}  // namespace quip
