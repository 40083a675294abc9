// Scores the tokens of a text, for perplexity and tasks.
#pragma once

#include <span>
#include <vector>

#include "quip/backend/backend.hpp"
#include "quip/comm/collectives.hpp"
#include "quip/pipeline/hidden_states.hpp"
#include "quip/pipeline/open_model.hpp"
#include "quip/pipeline/progress.hpp"

namespace quip {

/// The prediction of one token from those before it.
struct TokenScore {
  double log_probability = 0;  ///< in nats
  bool likeliest = false;      ///< no other token has a larger logit
};

/// Forwards this rank's samples through a whole model, a block at a time, and returns the input of
/// its head [tokens × width]. Collective.
[[nodiscard]] Tensor forward_to_head(Collectives& comm, Backend& backend, const OpenModel& model,
                                     const SampleShard& shard, Progress& progress);

/// Turns the states after the last block into the head's input (collective); `ends` are the tensors
/// outside blocks.
[[nodiscard]] Tensor finish_shard(Collectives& comm, Backend& backend, const Family& family,
                                  const WeightSet& ends, const SampleShard& shard, Tensor states);

/// Returns the rows of a head [vocabulary × width] that are loaded at a time.
[[nodiscard]] index_t head_slice_rows(const TensorSpec& head);

/// Forwards this rank's samples through the whole model, and scores the tokens
/// from position `first_scored[i]` ≥ 1 to the end of each sample i. Collective. A sample's scores
/// depend on nothing but that sample: not on the rank that computes them, nor on its neighbours.
[[nodiscard]] std::vector<std::vector<TokenScore>> score_tokens(
    Collectives& comm, Backend& backend, const OpenModel& model, const SampleShard& shard,
    std::span<const index_t> first_scored, Progress& progress);

}  // namespace quip
