#include "quip/pipeline/evaluate.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "quip/core/digest.hpp"
#include "quip/core/error.hpp"
#include "quip/model/safetensors.hpp"
#include "quip/pipeline/hidden_states.hpp"
#include "quip/pipeline/loader.hpp"
#include "quip/store/packed_model.hpp"

namespace quip {
namespace {

constexpr index_t head_slice_elements = index_t{1} << 22;  // 16 MiB of fp32 at a time

/// Either a checkpoint or a packed model.
struct Model {
  std::unique_ptr<TensorSource> checkpoint;
  std::unique_ptr<PackedModel> packed;
  std::unique_ptr<Family> family;

  [[nodiscard]] const TensorSource& source() const {
    return packed ? static_cast<const TensorSource&>(*packed) : *checkpoint;
  }
};

Model open_model(const EvaluateOptions& options) {
  Model model;
  if (options.packed.empty()) {
    const ModelConfig config = read_config(options.model);
    model.checkpoint = open_checkpoint(options.model);
    model.family = make_family(config, *model.checkpoint);
    return model;
  }
  model.packed = std::make_unique<PackedModel>(options.packed);
  const auto& manifest = model.packed->manifest();
  const ModelConfig config =
      parse_config(manifest.at("config").dump(), options.packed.string() + "/manifest.json");
  if (!options.model.empty()) {
    const std::string text = read_config(options.model).text;
    if (digest_of(std::as_bytes(std::span(text))) !=
        manifest.at("inputs").at("config_digest").get<std::string>()) {
      fail(
          "{} was not made from {}: their config.json differ; give the --model it was made from, "
          "or leave --model out",
          options.packed.string(), options.model.string());
    }
  }
  model.family = make_family(config, *model.packed, [&](const std::string& linear) {
    return model.packed->is_quantized(linear);
  });
  return model;
}

/// Replaces the states by what the head multiplies.
Tensor finish_shard(Collectives& comm, Backend& backend, const Family& family,
                    const WeightSet& ends, const SampleShard& shard, Tensor states) {
  const index_t width = family.head().shape[1];
  Tensor finished;
  agree(comm, [&] {
    if (states.cols() == width) {
      finished = std::move(states);
    } else {
      finished = backend.allocate(shard.tokens(), width);
    }
    const ConstTensorView from = states.empty() ? finished.cview() : states.cview();
    backend.for_each_unit(shard.samples.count(), [&](index_t s) {
      const Tensor out =
          family.finish(backend, ends, from.middle_rows(s * shard.length, shard.length));
      backend.copy(out.cview(), finished.view().middle_rows(s * shard.length, shard.length));
    });
  });
  return finished;
}

/// Σ over a sample's predictions of log Σ exp(logits) − logit of the next token, per sample.
std::vector<double> sample_losses(Collectives& comm, Backend& backend, const Family& family,
                                  const TensorSource& source, const SampleShard& shard,
                                  ConstTensorView finished) {
  const TensorSpec head = family.head();
  const index_t vocabulary = head.shape[0];
  const auto count = static_cast<std::size_t>(shard.samples.count());
  const auto predictions = static_cast<std::size_t>(shard.length - 1);
  std::vector<double> maximum(count * predictions, -std::numeric_limits<double>::infinity());
  std::vector<double> sum(count * predictions, 0.0);
  std::vector<double> target(count * predictions, 0.0);
  const index_t slice = std::max<index_t>(1, head_slice_elements / head.shape[1]);
  for (index_t first = 0; first < vocabulary; first += slice) {
    const Tensor weights =
        load_rows(comm, backend, source, head.name, {first, std::min(first + slice, vocabulary)});
    agree(comm, [&] {
      backend.for_each_unit(shard.samples.count(), [&](index_t s) {
        const auto at = static_cast<std::size_t>(s) * predictions;
        backend.log_sum_exp_slice(
            finished.middle_rows(s * shard.length, shard.length - 1), weights.cview(), first,
            {shard.sample(s) + 1, predictions}, std::span(maximum).subspan(at, predictions),
            std::span(sum).subspan(at, predictions), std::span(target).subspan(at, predictions));
      });
    });
  }
  std::vector<double> losses(count, 0.0);
  for (std::size_t s = 0; s < count; ++s) {
    for (std::size_t i = s * predictions; i < (s + 1) * predictions; ++i) {
      losses[s] += maximum[i] + std::log(sum[i]) - target[i];
    }
  }
  return losses;
}

}  // namespace

double Perplexity::value() const { return std::exp(mean_loss); }

Perplexity evaluate(Collectives& comm, Backend& backend, const EvaluateOptions& options,
                    Progress& progress) {
  Model model;
  std::unique_ptr<TokenSet> tokens;
  agree(comm, [&] {
    model = open_model(options);
    tokens = std::make_unique<TokenSet>(options.tokens);
  });
  Family& family = *model.family;
  const index_t samples = options.samples > 0 ? options.samples : tokens->samples();
  const SampleShard shard =
      shard_tokens(comm, *tokens, samples, family.config(), family.max_length());
  agree(comm, [&] { family.prepare(backend, shard.length); });
  WeightSet ends;
  load_into(ends, comm, backend, model.source(), family.end_tensors());
  Tensor states = embed_shard(comm, backend, family, model.source(), ends, shard);
  const index_t blocks = family.config().blocks;
  progress.start(blocks, "block");
  for (index_t b = 0; b < blocks; ++b) {
    progress.update(b, "forward");
    const WeightSet weights = model.packed
                                  ? load_block(comm, backend, *model.packed, family, b)
                                  : load_block(comm, backend, *model.checkpoint, family, b);
    forward_shard(comm, backend, family, b, weights, shard, states.view());
  }
  progress.update(blocks, "loss");
  const Tensor finished = finish_shard(comm, backend, family, ends, shard, std::move(states));
  const std::vector<double> mine =
      sample_losses(comm, backend, family, model.source(), shard, finished.cview());
  progress.finish();

  std::vector<double> losses(static_cast<std::size_t>(samples), 0.0);
  std::copy(mine.begin(), mine.end(), losses.begin() + shard.samples.first);
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
