// The flops of a forward pass. A multiply-add is two; norms, activations and the softmax are left
// out.
#pragma once

#include "quip/model/block_plan.hpp"

namespace quip {

/// Returns those of one sample of `length` tokens in a stage of a plan: its linears and attention.
[[nodiscard]] double stage_flops(const BlockPlan& plan, int stage, index_t length);

/// Returns those of all stages.
[[nodiscard]] double block_flops(const BlockPlan& plan, index_t length);

/// Returns those of the scores and weighted sums of one sample: only keys that a query sees count.
[[nodiscard]] double attention_flops(const AttentionShape& shape, index_t length);

}  // namespace quip
