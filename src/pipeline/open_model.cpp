#include "quip/pipeline/open_model.hpp"

#include <span>
#include <string>

#include "quip/core/digest.hpp"
#include "quip/core/error.hpp"
#include "quip/model/checkpoint.hpp"
#include "quip/pipeline/loader.hpp"

namespace quip {
namespace {

/// What the run that wrote the model noted in its manifest.
const nlohmann::json& recorded(const PackedModel& packed, const char* pointer) {
  const nlohmann::json::json_pointer place(pointer);
  const nlohmann::json& manifest = packed.manifest();
  if (!manifest.contains(place)) {
    fail("{}/manifest.json: lacks {}; the model was not written by quip quantize",
         packed.describe(), pointer);
  }
  return manifest.at(place);
}

void require_same_config(const PackedModel& packed, const std::filesystem::path& directory,
                         const std::filesystem::path& model) {
  const std::string text = read_config(model).text;
  if (recorded(packed, "/inputs/config_digest") != digest_of(std::as_bytes(std::span(text)))) {
    fail(
        "{} was not made from {}: their config.json differ; give the --model it was made from, "
        "or leave --model out",
        directory.string(), model.string());
  }
}

}  // namespace

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
  if (!model.empty()) require_same_config(layers, packed, model);
  opened.family = make_family(
      config, layers, [&](const std::string& linear) { return layers.is_quantized(linear); });
  return opened;
}

WeightSet OpenModel::block(Collectives& comm, Backend& backend, index_t number) const {
  return packed ? load_block(comm, backend, *packed, *family, number)
                : load_block(comm, backend, *checkpoint, *family, number);
}

}  // namespace quip
