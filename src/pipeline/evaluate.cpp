#include "quip/pipeline/evaluate.hpp"

#include <cmath>
#include <memory>
#include <vector>

#include "quip/core/error.hpp"
#include "quip/pipeline/scoring.hpp"

namespace quip {

Perplexity evaluate(Collectives& comm, Backend& backend, const EvaluateOptions& options,
                    Progress& progress) {
  OpenModel model;
  std::unique_ptr<TokenSet> tokens;
  agree(comm, [&] {
    model = open_model(options.model, options.packed, options.allow_unused);
    tokens = std::make_unique<TokenSet>(options.tokens);
  });
  for (const std::string& remark : model.remarks) progress.note(remark);
  const index_t samples = options.samples > 0 ? options.samples : tokens->samples();
  const SampleShard shard = shard_tokens(comm, *tokens, samples, *model.family);
  const std::vector<index_t> first_scored(shard.samples.count(), 1);
  const auto scores = score_tokens(comm, backend, model, shard, first_scored, progress);

  std::vector<double> losses(at(samples), 0.0);
  for (index_t s = 0; s < shard.samples.count(); ++s) {
    double& loss = losses[shard.samples.first + s];
    for (const TokenScore& score : scores[s]) loss -= score.log_probability;
  }
  comm.all_reduce_sum(losses);  // one rank's value and zeros: exact
  Perplexity result;
  result.tokens = samples * (shard.length - 1);
  for (const double loss : losses) result.mean_loss += loss;
  result.mean_loss /= static_cast<double>(result.tokens);
  agree(comm, [&] {
    if (!std::isfinite(result.mean_loss)) {
      fail("the loss is not finite: the model's activations overflow on {}",
           options.tokens.string());
    }
  });
  return result;
}

}  // namespace quip
