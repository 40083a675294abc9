// The activations between two blocks, for the samples of one rank.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quip/backend/backend.hpp"
#include "quip/calib/token_set.hpp"
#include "quip/comm/collectives.hpp"
#include "quip/io/tensor_source.hpp"
#include "quip/model/family.hpp"

namespace quip {

/// This rank's share of the sequences to be forwarded. The samples of a token set are equally
/// long; those of tasks are not.
struct SampleShard {
  Range samples;                  ///< global sample numbers
  index_t length = 0;             ///< tokens of the longest sample on any rank
  std::vector<std::int32_t> ids;  ///< sample after sample
  std::vector<index_t> offsets;   ///< begin of each sample in `ids`, and the end of the last

  [[nodiscard]] index_t tokens() const { return static_cast<index_t>(ids.size()); }
  [[nodiscard]] index_t length_of(index_t i) const { return offsets[i + 1] - offsets[i]; }
  [[nodiscard]] std::span<const std::int32_t> sample(index_t i) const {
    return std::span(ids).subspan(offsets[i], length_of(i));
  }
  /// Returns the rows of sample i of a matrix with a row per token.
  template <typename T>
  [[nodiscard]] MatrixView<T> rows_of(MatrixView<T> all, index_t i) const {
    return all.middle_rows(offsets[i], length_of(i));
  }
};

/// Reads and checks this rank's samples of the first `samples` (collective: agrees on errors).
[[nodiscard]] SampleShard shard_tokens(Collectives& comm, const TokenSet& tokens, index_t samples,
                                       const Family& family);

/// Returns the first block's input: [tokens × hidden] of the shard (collective).
[[nodiscard]] Tensor embed_shard(Collectives& comm, Backend& backend, const Family& family,
                                 const TensorSource& source, const WeightSet& ends,
                                 const SampleShard& shard);

/// Forwards every sample through a block, in place.
void forward_shard(Collectives& comm, Backend& backend, const Family& family, index_t block,
                   const WeightSet& weights, const SampleShard& shard, TensorView states);

}  // namespace quip
