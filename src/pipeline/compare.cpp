// A model beside the one that it was made of.
#include <array>
#include <cmath>
#include <memory>

#include "quip/core/error.hpp"
#include "quip/pipeline/divergence.hpp"
#include "quip/pipeline/evaluate.hpp"
#include "quip/pipeline/scoring.hpp"

namespace quip {
namespace {

struct ForwardedModel {
  OpenModel model;
  Tensor states;  ///< the head's input

  [[nodiscard]] index_t vocabulary() const { return model.family->head().shape[0]; }
  [[nodiscard]] HeadInput input() const {
    return {&model.source(), model.family.get(), states.cview()};
  }
};

}  // namespace

Comparison compare(Collectives& comm, Backend& backend, const EvaluateOptions& options,
                   Progress& progress) {
  ForwardedModel model;
  ForwardedModel reference;
  std::unique_ptr<TokenSet> tokens;
  agree(comm, [&] {
    model.model = open_model(options.model, options.packed, options.allow_unused);
    reference.model = open_model(options.against, {}, options.allow_unused);
    tokens = std::make_unique<TokenSet>(options.tokens);
    if (model.vocabulary() == reference.vocabulary()) return;
    fail("--against {}: has {} tokens in its vocabulary, and the model has {}",
         options.against.string(), reference.vocabulary(), model.vocabulary());
  });
  const index_t samples = options.samples > 0 ? options.samples : tokens->samples();
  SampleShard shard;
  for (ForwardedModel* side : {&model, &reference}) {
    for (const std::string& remark : side->model.remarks) progress.note(remark);
    shard = shard_tokens(comm, *tokens, samples, *side->model.family);
    side->states = forward_to_head(comm, backend, side->model, shard, progress);
    progress.finish();
  }
  const std::array<HeadInput, 1> models{model.input()};
  const auto own = divergences(comm, backend, reference.input(), models, shard);
  const Divergence sum = add_up(comm, own.front(), shard, samples);
  const index_t predicted = samples * (shard.length - 1);
  const auto count = static_cast<double>(predicted);
  agree(comm, [&] {
    if (std::isfinite(sum.loss) && std::isfinite(sum.divergence)) return;
    fail("the loss is not finite: activations overflow on {}", options.tokens.string());
  });
  return {{sum.loss / count, predicted},
          {sum.reference_loss / count, predicted},
          sum.divergence / count,
          sum.agreements / count};
}

}  // namespace quip
