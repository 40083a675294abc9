// manifest.json, beside the files of a small packed model: whatever it says of them, opening,
// verifying and reading end well or with an Error.
#include "store/manifest.hpp"

#include "packed_folder.hpp"

#include "quip/io/json.hpp"

namespace {

using namespace quip;

/// No tensor or layer of the small model is larger.
constexpr index_t most_bytes = 1 << 16;

void read_everything(const PackedModel& model) {
  for (const BlockEntry& block : model.blocks()) {
    for (const std::string& layer : block.layers) {
      fuzz::succeeds([&] { static_cast<void>(model.read_layer(layer)); });
    }
  }
  for (const std::string& name : model.names()) {
    const index_t bytes = std::min(model.info(name).bytes(), most_bytes);
    std::vector<std::byte> out(static_cast<std::size_t>(bytes));
    fuzz::succeeds([&] { model.read(name, model.info(name).bytes() - bytes, out); });
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::PackedFolder folder;
  static const bool sound = PackedModel(folder.model()).verify().empty();
  fuzz::require(sound);  // its own text, which changes with what reports tell, is no seed
  const std::string text = fuzz::text_of(data, size);
  fuzz::write_file(folder.model() / "manifest.json", text);
  fuzz::succeeds([&] {  // with its right digest: nothing would be reached behind a wrong one
    nlohmann::json document = parse_json(text, "manifest.json");
    if (document.is_object()) write_manifest(folder.model(), std::move(document));
  });
  fuzz::succeeds([&] {
    const PackedModel model(folder.model());
    const bool whole = model.verify().empty();
    if (text == folder.content("manifest.json")) fuzz::require(whole);
    read_everything(model);
  });
  fuzz::require(fuzz::open_hdf5_objects() == 0);
  return 0;
}
