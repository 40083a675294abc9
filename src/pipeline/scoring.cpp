#include "quip/pipeline/scoring.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include <omp.h>

#include "quip/pipeline/device_memory.hpp"
#include "quip/pipeline/expert_pass.hpp"
#include "quip/pipeline/loader.hpp"
#include "quip/pipeline/prefetch.hpp"

namespace quip {
namespace {

constexpr index_t head_slice_elements = index_t{1} << 22;  // 16 MiB of fp32 at a time

/// The sums for one sample, to which each slice of the vocabulary adds.
struct RunningSoftmax {
  explicit RunningSoftmax(index_t count)
      : maximum(at(count), -std::numeric_limits<double>::infinity()),
        sum(at(count), 0.0),
        target(at(count), 0.0) {}

  [[nodiscard]] std::vector<TokenScore> scores() const {
    std::vector<TokenScore> out(sum.size());
    for (std::size_t i = 0; i < out.size(); ++i) {
      out[i] = {target[i] - (maximum[i] + std::log(sum[i])), target[i] == maximum[i]};
    }
    return out;
  }

  std::vector<double> maximum;
  std::vector<double> sum;  ///< Σ exp(logit − maximum)
  std::vector<double> target;
};

/// Applies the head slice by slice: with large vocabularies it is the largest tensor of a model.
std::vector<std::vector<TokenScore>> apply_head(Collectives& comm, Backend& backend,
                                                const OpenModel& model, const SampleShard& shard,
                                                std::span<const index_t> first_scored,
                                                ConstTensorView finished) {
  std::vector<RunningSoftmax> running;
  for (index_t s = 0; s < shard.samples.count(); ++s) {
    running.emplace_back(shard.length_of(s) - first_scored[s]);
  }
  const TensorSpec head = model.family->head();
  const index_t vocabulary = head.shape[0];
  const index_t slice = head_slice_rows(head);
  for (index_t first = 0; first < vocabulary; first += slice) {
    const Range rows{first, std::min(first + slice, vocabulary)};
    const Tensor weights = load_rows(comm, backend, model.source(), head.name, rows);
    agree(comm, [&] {
      backend.for_each_unit(shard.samples.count(), [&](index_t s) {
        RunningSoftmax& r = running[s];
        const auto count = static_cast<index_t>(r.sum.size());
        // The state at position t predicts the token at t + 1.
        const ConstTensorView states =
            shard.rows_of(finished, s).middle_rows(first_scored[s] - 1, count);
        backend.log_sum_exp_slice(states, weights.cview(), first, model.family->config().logit_cap,
                                  shard.sample(s).subspan(first_scored[s]), r.maximum, r.sum,
                                  r.target);
      });
    });
  }
  std::vector<std::vector<TokenScore>> scores;
  scores.reserve(running.size());
  for (const RunningSoftmax& sample : running) scores.push_back(sample.scores());
  return scores;
}

}  // namespace

Tensor finish_shard(Collectives& comm, Backend& backend, const Family& family,
                    const WeightSet& ends, const SampleShard& shard, Tensor states) {
  const index_t width = family.head().shape[1];
  const bool in_place = states.cols() == width;
  Tensor other;
  agree(comm, [&] {
    if (!in_place) other = backend.allocate_samples(shard.tokens(), width);
    const TensorView finished = in_place ? states.view() : other.view();
    backend.for_each_unit(shard.samples.count(), [&](index_t s) {
      const Tensor out = backend.allocate(shard.length_of(s), width);
      family.finish(backend, ends, shard.rows_of(states.view(), s), out.view());
      backend.copy(out.cview(), shard.rows_of(finished, s));
    });
  });
  return in_place ? std::move(states) : std::move(other);
}

index_t head_slice_rows(const TensorSpec& head) {
  return std::max<index_t>(1, head_slice_elements / head.shape[1]);
}

Tensor forward_to_head(Collectives& comm, Backend& backend, const OpenModel& model,
                       const SampleShard& shard, Progress& progress) {
  Family& family = *model.family;
  std::vector<BlockKind> kinds;
  agree(comm, [&] {
    if (backend.memory()) kinds = kinds_of_blocks(family, model.stored_as());
  });
  plan_device_memory(comm, backend,
                     {.family = family,
                      .samples = shard.samples.count(),
                      .length = shard.length,
                      .rank = comm.rank(),
                      .ranks = comm.size(),
                      .threads = omp_get_max_threads(),
                      .kinds = std::move(kinds),
                      .wide = {},
                      .sequential = false,
                      .streams = false,
                      .packed = model.packed != nullptr});
  agree(comm, [&] { family.prepare(backend, shard.length); });
  WeightSet ends;
  load_into(ends, comm, backend, model.source(), family.end_tensors());
  Tensor states = embed_shard(comm, backend, family, model.source(), ends, shard);
  const index_t blocks = family.config().blocks;
  progress.start(blocks, "block");
  for (index_t b = 0; b < blocks; ++b) {
    progress.update(b, "forward");
    const BlockLoader loader = model.loader(comm, backend, b);
    WeightSet weights = loader.load();
    std::optional<Prefetch> prefetch;
    if (!model.packed && b + 1 < blocks) prefetch.emplace(comm, model.source(), family, b + 1);
    forward_block(comm, backend, family, loader, weights, shard, states.view());
  }
  progress.update(blocks, "loss");
  return finish_shard(comm, backend, family, ends, shard, std::move(states));
}

std::vector<std::vector<TokenScore>> score_tokens(Collectives& comm, Backend& backend,
                                                  const OpenModel& model, const SampleShard& shard,
                                                  std::span<const index_t> first_scored,
                                                  Progress& progress) {
  const Tensor finished = forward_to_head(comm, backend, model, shard, progress);
  auto scores = apply_head(comm, backend, model, shard, first_scored, finished.cview());
  progress.finish();
  return scores;
}

}  // namespace quip
