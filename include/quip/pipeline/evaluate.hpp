// `quip eval`: perplexity of a checkpoint or a packed model.
#pragma once

#include <cmath>
#include <filesystem>

#include "quip/backend/backend.hpp"
#include "quip/comm/collectives.hpp"
#include "quip/pipeline/progress.hpp"

namespace quip {

struct EvaluateOptions {
  std::filesystem::path model;   ///< Hugging Face directory; may be empty with `packed`
  std::filesystem::path packed;  ///< packed model; empty: evaluate the checkpoint
  std::filesystem::path tokens;
  index_t samples = 0;                 ///< 0: all
  bool allow_unused = false;           ///< as for `open_model`
  std::filesystem::path against = {};  ///< checkpoint to compare with
};

struct Perplexity {
  double mean_loss = 0;  ///< nats per predicted token
  index_t tokens = 0;    ///< predicted tokens: length − 1 a sample
  [[nodiscard]] double value() const { return std::exp(mean_loss); }
};

/// Returns the same result on every rank and for any number of ranks (collective): losses are
/// summed sample by sample in the token set's order.
[[nodiscard]] Perplexity evaluate(Collectives& comm, Backend& backend,
                                  const EvaluateOptions& options, Progress& progress);

/// How far a model's predictions are from another's, of the same tokens.
struct Comparison {
  Perplexity model;
  Perplexity reference;
  double divergence = 0;  ///< mean KL(reference ‖ model) of a token's distributions, in nats
  double agreement = 0;   ///< share of the tokens to which both give the likeliest token
};

/// Compares the model with the checkpoint `against`. The result is the same on every rank and for
/// any number of ranks (collective). Throws AgreedError naming both if their vocabularies differ.
[[nodiscard]] Comparison compare(Collectives& comm, Backend& backend,
                                 const EvaluateOptions& options, Progress& progress);

}  // namespace quip
