// Two models beside each other: the distributions that they give for the next token.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "quip/core/error.hpp"
#include "quip/pipeline/evaluate.hpp"
#include "quip/pipeline/loader.hpp"
#include "quip/pipeline/scoring.hpp"

namespace quip {
namespace {

/// Sums over the logits of one token in one model, slice by slice of the vocabulary.
struct RunningSoftmax {
  double maximum = -std::numeric_limits<double>::infinity();
  double sum = 0;  ///< Σ exp(logit − maximum)
  double target = 0;
  index_t likeliest = -1;

  [[nodiscard]] double normaliser() const { return maximum + std::log(sum); }
  /// Raises the maximum to that of a slice, and returns by what sums shrink.
  double raise(const float* logits, index_t count, index_t first) {
    const float* best = std::max_element(logits, logits + count);
    if (*best <= maximum) return 1;
    const double shrinks = std::exp(maximum - *best);
    maximum = *best;
    likeliest = first + (best - logits);
    sum *= shrinks;
    return shrinks;
  }
};

/// The same of one token in both models.
struct RunningPair {
  RunningSoftmax model;
  RunningSoftmax reference;
  double gap = 0;  ///< Σ exp(l − maximum) (l − m), l the reference's logits and m the model's

  void add(const float* of_model, const float* of_reference, index_t count, index_t first,
           index_t target) {
    model.raise(of_model, count, first);
    gap *= reference.raise(of_reference, count, first);
    for (index_t i = 0; i < count; ++i) {
      const double m = of_model[i];
      const double l = of_reference[i];
      const double weight = std::exp(l - reference.maximum);
      model.sum += std::exp(m - model.maximum);
      reference.sum += weight;
      gap += weight * (l - m);
    }
    if (target < first || target >= first + count) return;
    model.target = of_model[target - first];
    reference.target = of_reference[target - first];
  }
  /// Returns KL(reference ‖ model).
  [[nodiscard]] double divergence() const {
    return gap / reference.sum - reference.normaliser() + model.normaliser();
  }
};

/// One of the models with what it has of this rank's samples.
struct Side {
  OpenModel model;
  Tensor states;  ///< the head's input

  [[nodiscard]] TensorSpec head() const { return model.family->head(); }
};

/// Returns x Wᵀ, capped as the model does, in host memory.
Matrix<float> logits_of(Backend& backend, const Side& side, ConstTensorView x, ConstTensorView w) {
  const Tensor product = backend.allocate(x.rows, w.rows);
  backend.linear(x, w, {}, product.view());
  Matrix<float> logits(x.rows, w.rows);
  backend.download(product.cview(), logits.span());
  const float cap = side.model.family->config().logit_cap;
  if (cap > 0) {
    for (float& value : logits.span()) value = cap * std::tanh(value / cap);
  }
  return logits;
}

/// Losses, divergences and agreements of a sample.
constexpr std::size_t measures = 4;

/// Applies both heads, slice by slice, and returns `measures` sums for each sample of this rank.
std::vector<double> compare_heads(Collectives& comm, Backend& backend, const Side& model,
                                  const Side& reference, const SampleShard& shard) {
  std::vector<std::vector<RunningPair>> running;
  for (index_t s = 0; s < shard.samples.count(); ++s) {
    running.emplace_back(at(shard.length_of(s) - 1));
  }
  const index_t vocabulary = model.head().shape[0];
  const index_t slice = std::min(head_slice_rows(model.head()), head_slice_rows(reference.head()));
  for (index_t first = 0; first < vocabulary; first += slice) {
    const Range rows{first, std::min(first + slice, vocabulary)};
    const auto load = [&](const Side& side) {
      return load_rows(comm, backend, side.model.source(), side.head().name, rows);
    };
    const Tensor of_model = load(model);
    const Tensor of_reference = load(reference);
    agree(comm, [&] {
      backend.for_each_unit(shard.samples.count(), [&](index_t s) {
        const auto logits = [&](const Side& side, const Tensor& head) {
          const ConstTensorView states = shard.rows_of(side.states.cview(), s);
          return logits_of(backend, side, states.middle_rows(0, states.rows - 1), head.cview());
        };
        const Matrix<float> ours = logits(model, of_model);
        const Matrix<float> theirs = logits(reference, of_reference);
        for (index_t t = 0; t < ours.rows(); ++t) {
          running[at(s)][at(t)].add(ours.row(t), theirs.row(t), rows.count(), first,
                                    shard.sample(s)[at(t + 1)]);
        }
      });
    });
  }
  std::vector<double> sums;
  for (const auto& sample : running) {
    std::array<double, measures> sum{};
    for (const RunningPair& token : sample) {
      sum[0] += token.model.normaliser() - token.model.target;
      sum[1] += token.reference.normaliser() - token.reference.target;
      sum[2] += token.divergence();
      sum[3] += token.model.likeliest == token.reference.likeliest ? 1 : 0;
    }
    sums.insert(sums.end(), sum.begin(), sum.end());
  }
  return sums;
}

}  // namespace

Comparison compare(Collectives& comm, Backend& backend, const EvaluateOptions& options,
                   Progress& progress) {
  Side model;
  Side reference;
  std::unique_ptr<TokenSet> tokens;
  agree(comm, [&] {
    model.model = open_model(options.model, options.packed, options.allow_unused);
    reference.model = open_model(options.against, {}, options.allow_unused);
    tokens = std::make_unique<TokenSet>(options.tokens);
    if (model.head().shape[0] != reference.head().shape[0]) {
      fail("--against {}: has {} tokens in its vocabulary, and the model has {}",
           options.against.string(), reference.head().shape[0], model.head().shape[0]);
    }
  });
  const index_t samples = options.samples > 0 ? options.samples : tokens->samples();
  std::vector<double> sums(at(samples) * measures, 0.0);
  index_t length = 0;
  for (Side* side : {&model, &reference}) {
    for (const std::string& remark : side->model.remarks) progress.note(remark);
    const SampleShard shard = shard_tokens(comm, *tokens, samples, *side->model.family);
    side->states = forward_to_head(comm, backend, side->model, shard, progress);
    progress.finish();
    length = shard.length;
    if (side == &model) continue;
    const std::vector<double> own = compare_heads(comm, backend, model, reference, shard);
    std::ranges::copy(own, sums.begin() + shard.samples.first * index_t{measures});
  }
  comm.all_reduce_sum(sums);  // one rank's value and zeros: exact
  std::array<double, measures> mean{};
  const index_t predicted = samples * (length - 1);
  for (index_t s = 0; s < samples; ++s) {
    for (std::size_t m = 0; m < measures; ++m) mean[m] += sums[at(s) * measures + m];
  }
  for (double& value : mean) value /= static_cast<double>(predicted);
  agree(comm, [&] {
    if (std::isfinite(mean[0]) && std::isfinite(mean[1]) && std::isfinite(mean[2])) return;
    fail("the loss is not finite: activations overflow on {}", options.tokens.string());
  });
  return {{mean[0], predicted}, {mean[1], predicted}, mean[2], mean[3]};
}

}  // namespace quip
