#include "quip/pipeline/open_model.hpp"

#include <span>
#include <string>
#include <variant>

#include "quip/core/digest.hpp"
#include "quip/core/error.hpp"
#include "quip/model/checkpoint.hpp"
#include "quip/quant/options/option_table.hpp"

namespace quip {
namespace {

/// Returns an entry of the manifest, noted by the run that wrote the model.
const nlohmann::json& recorded(const PackedModel& packed, const char* pointer) {
  const nlohmann::json::json_pointer place(pointer);
  const nlohmann::json& manifest = packed.manifest();
  if (!manifest.contains(place)) {
    fail("{}/manifest.json: lacks {}; the model was not written by quip quantize",
         packed.describe(), pointer);
  }
  return manifest.at(place);
}

/// Returns a value as it is typed after its option.
std::string typed(const nlohmann::json& value) {
  if (value.is_boolean()) return value.get<bool>() ? "on" : "off";
  return value.is_string() ? value.get<std::string>() : value.dump();
}

}  // namespace

void require_made_from(const PackedModel& packed, const std::filesystem::path& model) {
  const std::string text = read_config(model).text;
  if (recorded(packed, "/inputs/config_digest") != digest_of(std::as_bytes(std::span(text)))) {
    fail("{} was not made from {}: their config.json differ; give the --model it was made from",
         packed.describe(), model.string());
  }
}

OpenModel open_model(const std::filesystem::path& model, const std::filesystem::path& packed,
                     bool allow_unused) {
  OpenModel opened;
  if (packed.empty()) {
    Checkpoint checkpoint = open_model_directory(model, allow_unused);
    opened.checkpoint = std::move(checkpoint.source);
    opened.family = std::move(checkpoint.family);
    opened.remarks = std::move(checkpoint.remarks);
    return opened;
  }
  opened.packed = std::make_unique<PackedModel>(packed);
  const PackedModel& layers = *opened.packed;
  const ModelConfig config =
      parse_config(recorded(layers, "/config").dump(), packed.string() + "/manifest.json");
  if (!model.empty()) require_made_from(layers, model);
  opened.family = make_family(
      config, layers, [&](const std::string& linear) { return layers.is_quantized(linear); });
  remark_on_head(config, *opened.family, opened.remarks);
  return opened;
}

QuantizeOptions OpenModel::stored_as() const {
  QuantizeOptions options;
  options.skip = packed ? recorded(*packed, "/options/skip").get<std::string>() : ".";
  if (!packed) return options;
  const nlohmann::json& settings = recorded(*packed, "/options");
  // Models made before there was a choice have scalar codes, and no other option of today's.
  if (!settings.contains("codebook")) options.layer.codebook = CodebookKind::scalar;
  for (const LayerOption& option : layer_options()) {
    const auto found = settings.find(option.key());
    if (option.in_force == nullptr || found == settings.end()) continue;
    // What follows from other options is left to them, as overrides of those change it.
    const auto follows = [&](const auto& implied) { return *found == nlohmann::json(implied); };
    if (std::visit(follows, option.in_force(options.layer))) continue;
    option.parse(options.layer, typed(*found));
  }
  if (packed->manifest().contains("bits_by_layer")) {
    options.bits_by_layer =
        packed->manifest().at("bits_by_layer").get<std::map<std::string, int>>();
  }
  for (const auto& item : recorded(*packed, "/options/overrides")) {
    options.overrides.add(item.get<std::string>());
  }
  return options;
}

}  // namespace quip
