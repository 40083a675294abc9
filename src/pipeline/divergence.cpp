#include "quip/pipeline/divergence.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <limits>
#include <vector>

#include "quip/core/error.hpp"
#include "quip/pipeline/loader.hpp"
#include "quip/pipeline/scoring.hpp"

namespace quip {
namespace {

/// Sums over the logits of one token in one model, slice by slice of the vocabulary.
struct LogitSums {
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
  LogitSums model;
  LogitSums reference;
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

/// Returns x Wᵀ, capped as the model does, in host memory.
Matrix<float> logits_of(Backend& backend, const HeadInput& side, ConstTensorView x,
                        ConstTensorView w) {
  const Tensor product = backend.allocate(x.rows, w.rows);
  backend.linear(x, w, {}, product.view());
  Matrix<float> logits(x.rows, w.rows);
  backend.download(product.cview(), logits.span());
  const float cap = side.family->config().logit_cap;
  if (cap > 0) {
    for (float& value : logits.span()) value = cap * std::tanh(value / cap);
  }
  return logits;
}

Divergence sums_of(const std::vector<RunningPair>& tokens) {
  Divergence sum;
  for (const RunningPair& token : tokens) {
    sum.loss += token.model.normaliser() - token.model.target;
    sum.reference_loss += token.reference.normaliser() - token.reference.target;
    sum.divergence += token.divergence();
    sum.agreements += token.model.likeliest == token.reference.likeliest ? 1 : 0;
  }
  return sum;
}

}  // namespace

std::vector<std::vector<Divergence>> divergences(Collectives& comm, Backend& backend,
                                                 const HeadInput& reference,
                                                 std::span<const HeadInput> models,
                                                 const SampleShard& shard) {
  const auto samples = at(shard.samples.count());
  std::vector<std::vector<std::vector<RunningPair>>> running(models.size());  // by model, sample
  for (auto& of_model : running) {
    for (std::size_t s = 0; s < samples; ++s) {
      of_model.emplace_back(at(shard.length_of(static_cast<index_t>(s)) - 1));
    }
  }
  const TensorSpec head = reference.family->head();
  index_t slice = head_slice_rows(head);
  for (const HeadInput& model : models) {
    slice = std::min(slice, head_slice_rows(model.family->head()));
  }
  for (index_t first = 0; first < head.shape[0]; first += slice) {
    const Range rows{first, std::min(first + slice, head.shape[0])};
    const auto load = [&](const HeadInput& side) {
      return load_rows(comm, backend, *side.source, side.family->head().name, rows);
    };
    const auto predict = [&](const HeadInput& side, const Tensor& weights, index_t s) {
      const ConstTensorView states = shard.rows_of(side.states, s);
      return logits_of(backend, side, states.middle_rows(0, states.rows - 1), weights.cview());
    };
    const Tensor of_reference = load(reference);
    std::vector<Tensor> own(models.size());  // empty: the reference's
    for (std::size_t m = 0; m < models.size(); ++m) {
      if (models[m].source != reference.source) own[m] = load(models[m]);
    }
    agree(comm, [&] {
      backend.for_each_unit(shard.samples.count(), [&](index_t s) {
        const Matrix<float> theirs = predict(reference, of_reference, s);
        for (std::size_t m = 0; m < models.size(); ++m) {
          const Matrix<float> ours = predict(models[m], own[m].empty() ? of_reference : own[m], s);
          for (index_t t = 0; t < ours.rows(); ++t) {
            running[m][at(s)][at(t)].add(ours.row(t), theirs.row(t), rows.count(), first,
                                         shard.sample(s)[at(t + 1)]);
          }
        }
      });
    });
  }
  std::vector<std::vector<Divergence>> sums;
  for (const auto& of_model : running) {
    std::ranges::transform(of_model, std::back_inserter(sums.emplace_back()), sums_of);
  }
  return sums;
}

Divergence add_up(Collectives& comm, const std::vector<Divergence>& own, const SampleShard& shard,
                  index_t samples) {
  constexpr std::size_t fields = 4;
  std::vector<double> all(at(samples) * fields, 0.0);
  for (std::size_t s = 0; s < own.size(); ++s) {
    const std::array<double, fields> values{own[s].loss, own[s].reference_loss, own[s].divergence,
                                            own[s].agreements};
    std::ranges::copy(
        values, all.begin() + (shard.samples.first + static_cast<index_t>(s)) * index_t{fields});
  }
  comm.all_reduce_sum(all);  // one rank's value and zeros: exact
  Divergence sum;
  for (index_t s = 0; s < samples; ++s) {
    const double* values = all.data() + s * index_t{fields};
    sum.loss += values[0];
    sum.reference_loss += values[1];
    sum.divergence += values[2];
    sum.agreements += values[3];
  }
  return sum;
}

}  // namespace quip
