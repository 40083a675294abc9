#include "quip/pipeline/quantize.hpp"

#include <chrono>
#include <optional>
#include <set>

#include "quip/core/digest.hpp"
#include "quip/core/error.hpp"
#include "quip/model/safetensors.hpp"
#include "quip/pipeline/block_quantizer.hpp"
#include "quip/pipeline/hidden_states.hpp"
#include "quip/pipeline/loader.hpp"
#include "quip/pipeline/report.hpp"
#include "quip/store/packed_model.hpp"

namespace quip {
namespace {

/// What every rank opens before anything is written.
struct Inputs {
  std::unique_ptr<TensorSource> source;
  std::unique_ptr<Family> family;
  std::unique_ptr<TokenSet> tokens;
  index_t samples = 0;
};

Inputs open_inputs(Collectives& comm, const QuantizeOptions& options) {
  Inputs inputs;
  agree(comm, [&] {
    const ModelConfig config = read_config(options.model);
    inputs.source = open_checkpoint(options.model);
    inputs.family = make_family(config, *inputs.source);
    inputs.tokens = std::make_unique<TokenSet>(options.tokens);
    inputs.samples = options.samples > 0 ? options.samples : inputs.tokens->samples();
  });
  return inputs;
}

/// Names, types and shapes of all tensors: tells checkpoints apart without reading them.
std::string fingerprint(const TensorSource& source) {
  Digest digest;
  for (const std::string& name : source.names()) {
    const TensorInfo& info = source.info(name);
    digest.update(name);
    digest.update(to_string(info.dtype));
    for (const index_t extent : info.shape) digest.update(fmt::format(" {}", extent));
  }
  return digest.hex();
}

nlohmann::json manifest_header(const QuantizeOptions& options, const Inputs& inputs) {
  const LayerOptions& layer = options.layer;
  nlohmann::json settings = {{"bits", layer.bits},
                             {"method", to_string(layer.method)},
                             {"processing", to_string(layer.processing)},
                             {"rescale", layer.rescale()},
                             {"transform", to_string(layer.effective_transform())},
                             {"grid", to_string(layer.grid())},
                             {"group_size", layer.group_size},
                             {"groups", to_string(layer.effective_groups())},
                             {"symmetric", layer.symmetric},
                             {"clamp", to_string(layer.clamp)},
                             {"order", to_string(layer.order.value_or(ColumnOrder::backward))},
                             {"act_order", layer.act_order},
                             {"rounding", to_string(layer.rounding)},
                             {"passes", layer.effective_passes()},
                             {"damp", layer.damping},
                             {"samples", inputs.samples},
                             {"seed", layer.seed},
                             {"skip", options.skip},
                             {"overrides", options.overrides.rules()},
                             {"true_sequential", options.true_sequential}};
  settings["rho"] = layer.rho ? nlohmann::json(*layer.rho) : nlohmann::json("auto");
  const std::string& config = inputs.family->config().text;
  return {{"quip_version", QUIP_VERSION},
          {"options", std::move(settings)},
          {"inputs",
           {{"config_digest", digest_of(std::as_bytes(std::span(config)))},
            {"checkpoint_fingerprint", fingerprint(*inputs.source)},
            {"tokens_digest", inputs.tokens->digest(inputs.samples)}}},
          {"config", nlohmann::json::parse(config)}};
}

/// Everything that is not quantized goes to rest.h5 as it is.
std::vector<std::string> remaining_tensors(const TensorSource& source,
                                           const std::set<std::string>& quantized) {
  std::vector<std::string> names;
  for (const std::string& name : source.names()) {
    if (!quantized.contains(name)) names.push_back(name);
  }
  return names;
}

/// Stored bytes of one layer: codes, scales, zero points (packed) and D̃.
double stored_bytes(const QuantizedLinear& layer) {
  return static_cast<double>(layer.codes.size()) + 4.0 * static_cast<double>(layer.scale.size()) +
         4.0 * static_cast<double>(layer.rescale.size()) +
         static_cast<double>(layer.zero.size()) * layer.bits / 8.0;
}

/// What the report says of layers and sizes; codes are not kept.
struct Tally {
  nlohmann::json layers = nlohmann::json::array();
  double loss_sum = 0;
  double weights = 0;
  double linear_bytes = 0;

  void add(const StoredLayer& layer) {
    layers.push_back(to_json(layer));
    loss_sum += layer.statistics.relative_proxy_loss;
    weights += static_cast<double>(layer.layer.rows) * static_cast<double>(layer.layer.cols);
    linear_bytes += stored_bytes(layer.layer);
  }
};

nlohmann::json size_report(const TensorSource& source, const std::set<std::string>& quantized,
                           const Tally& tally) {
  double before = 0;
  double linear_before = 0;
  for (const std::string& name : source.names()) {
    const auto bytes = static_cast<double>(source.info(name).bytes());
    before += bytes;
    if (quantized.contains(name)) linear_before += bytes;
  }
  return {{"bytes_before", before},
          {"bytes_after", before - linear_before + tally.linear_bytes},
          {"linear_bytes_before", linear_before},
          {"linear_bytes_after", tally.linear_bytes},
          {"bits_per_weight", 8 * tally.linear_bytes / tally.weights}};
}

}  // namespace

nlohmann::json quantize(Collectives& comm, Backend& backend, const QuantizeOptions& options,
                        int threads, Progress& progress) {
  const auto start = std::chrono::steady_clock::now();
  const Inputs inputs = open_inputs(comm, options);
  Family& family = *inputs.family;
  const TensorSource& source = *inputs.source;
  const index_t blocks = family.config().blocks;
  const SampleShard shard =
      shard_tokens(comm, *inputs.tokens, inputs.samples, family.config(), family.max_length());

  Phases phases;
  // Outlives the check below: the quantizer asks it for every layer.
  const auto options_of = [&options](const std::string& layer) {
    return options.overrides.apply(options.layer, layer);
  };
  std::optional<BlockQuantizer> maybe_quantizer;
  std::set<std::string> quantized;
  agree(comm, [&] {
    maybe_quantizer.emplace(comm, backend, family, options_of, options.skip,
                            options.true_sequential, phases);
    maybe_quantizer->dump_failing = options.dump_failing;
    for (index_t b = 0; b < blocks; ++b) {
      for (const LinearSpec& linear : maybe_quantizer->selected(b)) {
        quantized.insert(linear.name + ".weight");
        static_cast<void>(options_of(linear.name));  // a rule that cannot be applied ends here
      }
    }
    if (quantized.empty()) fail("--skip '{}' leaves nothing to quantize", options.skip);
  });
  BlockQuantizer& quantizer = *maybe_quantizer;

  PackedWriter writer(comm, options.out, manifest_header(options, inputs));
  progress.start(blocks, "block");
  {
    auto scope = phases.measure("write");
    progress.update(0, "copy tensors that stay");
    writer.write_rest(source, remaining_tensors(source, quantized));
  }
  WeightSet ends;
  Tensor states;
  {
    auto scope = phases.measure("load");
    agree(comm, [&] { family.prepare(backend, shard.length); });
    load_into(ends, comm, backend, source, family.end_tensors());
    states = embed_shard(comm, backend, family, source, ends, shard);
  }
  Tally tally;
  for (index_t b = 0; b < blocks; ++b) {
    quantizer.on_step = [&](const std::string& what) { progress.update(b, what); };
    WeightSet weights;
    {
      auto scope = phases.measure("load");
      const index_t sent = comm.bytes_sent();
      weights = load_block(comm, backend, source, family, b);
      scope.add_bytes_sent(comm.bytes_sent() - sent);
    }
    const std::vector<StoredLayer> layers = quantizer.quantize(b, weights, shard, states.cview());
    for (const StoredLayer& layer : layers) tally.add(layer);
    {
      auto scope = phases.measure("write");
      writer.write_block(b, layers);
    }
    auto scope = phases.measure("forward");
    forward_shard(comm, backend, family, b, weights, shard, states.view());
    scope.add_flops(linear_flops(family, b, shard.tokens()));
  }
  progress.update(blocks, "done");
  progress.finish();

  nlohmann::json report = {
      {"ranks", comm.size()},
      {"threads", threads},
      {"backend", backend.describe()},
      {"mean_relative_proxy_loss", tally.loss_sum / static_cast<double>(quantized.size())},
      {"size", size_report(source, quantized, tally)},
      {"layers", std::move(tally.layers)},
      {"phases", gather_phases(comm, phases)},
      {"peak_rss_bytes", gather_peak_memory(comm)},
      {"seconds", std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()}};
  writer.finish(report);
  return report;
}

}  // namespace quip
