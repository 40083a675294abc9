// The activations between two blocks, for the samples of one rank.
#pragma once

#include <cstdint>
#include <vector>

#include "quip/backend/backend.hpp"
#include "quip/calib/token_set.hpp"
#include "quip/comm/collectives.hpp"
#include "quip/model/family.hpp"
#include "quip/model/tensor_source.hpp"

namespace quip {

/// This rank's share of a token set.
struct SampleShard {
  Range samples;                  ///< global sample numbers
  index_t length = 0;             ///< tokens per sample
  std::vector<std::int32_t> ids;  ///< [samples × length]

  [[nodiscard]] index_t tokens() const { return samples.count() * length; }
  [[nodiscard]] const std::int32_t* sample(index_t i) const { return ids.data() + i * length; }
};

/// Reads and checks this rank's samples of the first `samples` (collective: agrees on errors).
[[nodiscard]] SampleShard shard_tokens(Collectives& comm, const TokenSet& tokens, index_t samples,
                                       const ModelConfig& config, index_t max_length);

/// What the first block sees: [tokens × hidden] of the shard (collective).
[[nodiscard]] Tensor embed_shard(Collectives& comm, Backend& backend, const Family& family,
                                 const TensorSource& source, const WeightSet& ends,
                                 const SampleShard& shard);

/// Forwards every sample through a block, in place.
void forward_shard(Collectives& comm, Backend& backend, const Family& family, index_t block,
                   const WeightSet& weights, const SampleShard& shard, TensorView states);

/// Flops of forwarding `tokens` tokens through the linears of a block.
[[nodiscard]] double linear_flops(const Family& family, index_t block, index_t tokens);

}  // namespace quip
