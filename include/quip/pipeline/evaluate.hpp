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
  index_t samples = 0;        ///< 0: all
  bool allow_unused = false;  ///< as for `open_model`
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

}  // namespace quip
