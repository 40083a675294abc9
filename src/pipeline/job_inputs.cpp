#include "job_inputs.hpp"

#include <algorithm>
#include <array>

#include "quip/core/digest.hpp"
#include "quip/core/error.hpp"
#include "quip/io/json.hpp"
#include "quip/quant/options/option_table.hpp"

namespace quip {
namespace {

constexpr index_t probe_bytes = 256;
constexpr index_t probes = 4;

}  // namespace

std::string fingerprint(const TensorSource& source) {
  Digest digest;
  std::array<std::byte, probe_bytes> probe{};
  for (const std::string& name : source.names()) {
    const TensorInfo& info = source.info(name);
    digest.update(name);
    digest.update(to_string(info.dtype));
    for (const index_t extent : info.shape) digest.update(fmt::format(" {}", extent));
    const index_t bytes = std::min(probe_bytes, info.bytes());
    for (index_t p = 0; p < probes; ++p) {
      const auto part = std::span(probe).first(at(bytes));
      source.read(name, (info.bytes() - bytes) * p / (probes - 1), part);
      digest.update(part);
    }
  }
  return digest.hex();
}

JobInputs open_inputs(Collectives& comm, const QuantizeOptions& options) {
  JobInputs inputs;
  agree(comm, [&] {
    static_cast<Checkpoint&>(inputs) = open_model_directory(options.model, options.allow_unused);
    inputs.tokens = std::make_unique<TokenSet>(options.tokens);
    inputs.samples = options.samples > 0 ? options.samples : inputs.tokens->samples();
  });
  for (const std::string& remark : inputs.remarks) options.on_note(remark);
  return inputs;
}

index_t state_bytes(const StateShape& shape) {
  return shape.samples * shape.sample_elements() * index_t{sizeof(float)};
}

KeepStates states_to_keep(std::optional<KeepStates> asked, const StateShape& shape,
                          const TensorSource& model) {
  if (asked) return *asked;
  index_t bytes = 0;
  for (const std::string& name : model.names()) bytes += model.info(name).bytes();
  return state_bytes(shape) <= bytes ? KeepStates::last : KeepStates::none;
}

nlohmann::json manifest_header(const QuantizeOptions& options, index_t samples,
                               const std::string& config, const std::string& checkpoint,
                               const std::string& tokens) {
  nlohmann::json settings = {{"samples", samples},
                             {"skip", options.skip},
                             {"overrides", options.overrides.rules()},
                             {"true_sequential", options.true_sequential},
                             {"experts", to_string(options.experts)},
                             {"expert_prior", options.expert_prior},
                             {"wide", options.wide.inputs}};
  if (options.stream.on) {
    settings.update({{"target", "stream"},
                     {"drift", options.stream.drift},
                     {"residual", options.stream.residual}});
  }
  settings["process_grid"] =
      options.wide.process_grid ? to_string(*options.wide.process_grid) : "none";
  for (const LayerOption& option : layer_options()) {
    if (option.in_force == nullptr) continue;
    nlohmann::json& setting = settings[option.key()];
    std::visit([&](const auto& value) { setting = value; }, option.in_force(options.layer));
  }
  nlohmann::json header = {{"quip_version", QUIP_VERSION},
                           {"options", std::move(settings)},
                           {"inputs",
                            {{"config_digest", digest_of(std::as_bytes(std::span(config)))},
                             {"checkpoint_fingerprint", checkpoint},
                             {"tokens_digest", tokens}}},
                           {"config", parse_json(config, "config.json")}};
  if (options.mean_bits) {
    header["options"]["mean_bits"] = *options.mean_bits;
    header["bits_by_layer"] = options.bits_by_layer;
  }
  return header;
}

nlohmann::json manifest_header(Collectives& comm, const QuantizeOptions& options,
                               const JobInputs& inputs) {
  std::string checkpoint;
  std::string tokens;
  agree(comm, [&] {
    if (comm.rank() != 0) return;
    checkpoint = fingerprint(*inputs.source);
    tokens = inputs.tokens->digest(inputs.samples);
  });
  comm.broadcast(checkpoint, 0);
  comm.broadcast(tokens, 0);
  return manifest_header(options, inputs.samples, inputs.family->config().text, checkpoint, tokens);
}

}  // namespace quip
