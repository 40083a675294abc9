// How far models' predictions are from those of a reference, for the same tokens.
#pragma once

#include <span>
#include <vector>

#include "quip/backend/backend.hpp"
#include "quip/comm/collectives.hpp"
#include "quip/io/tensor_source.hpp"
#include "quip/model/family.hpp"
#include "quip/pipeline/hidden_states.hpp"

namespace quip {

/// The input of a model's head for this rank's samples, and where the head is.
struct HeadInput {
  const TensorSource* source;
  const Family* family;
  ConstTensorView states;  ///< [tokens × width]
};

/// Sums over the predicted tokens of one sample.
struct Divergence {
  double loss = 0;            ///< of the model, in nats
  double reference_loss = 0;  ///< of the reference
  double divergence = 0;      ///< KL(reference ‖ model), in nats
  double agreements = 0;      ///< tokens to which both give the same likeliest token
};

/// Applies the heads, slice by slice of the vocabulary, and returns the sums of every model for
/// each of this rank's samples. All have the vocabulary of the reference. Collective.
[[nodiscard]] std::vector<std::vector<Divergence>> divergences(Collectives& comm, Backend& backend,
                                                               const HeadInput& reference,
                                                               std::span<const HeadInput> models,
                                                               const SampleShard& shard);

/// Returns the sums over all of `samples` samples, in their order: the same on every rank and for
/// any number of ranks. Collective.
[[nodiscard]] Divergence add_up(Collectives& comm, const std::vector<Divergence>& own,
                                const SampleShard& shard, index_t samples);

}  // namespace quip
